"""Plan → the decoder and the columnizers that its models are read with, compiled once for a process."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from streams.batch import Columnizer
from streams.decode import Decoder, ModelCodec
from streams.plan import ModelPlan, Plan

_decoders: WeakKeyDictionary[Plan, Decoder] = WeakKeyDictionary()
_columnizers: WeakKeyDictionary[ModelPlan, Columnizer] = WeakKeyDictionary()


def decoder_of(plan: Plan) -> Decoder:
    """Returns the one decoder of a plan; the first call compiles it, which takes a second for thousands of models.

    It learns the unknown fields of the streams that it reads; with or without them a record gives the same row. A
    decoder for each partition would compile the structs of all models again.
    """
    decoder = _decoders.get(plan)
    if decoder is None:
        codecs = {
            name: ModelCodec(name, model.layout.columns, tuple(model.config.segments))
            for name, model in plan.models.items()
        }
        limits = plan.config.limits
        decoder = _decoders[plan] = Decoder(codecs, limits.max_record_bytes, limits.future_ms)
    return decoder


def columnizer_of(model: ModelPlan) -> Columnizer:
    """Returns the one columnizer of a model; the first call makes it."""
    columnizer = _columnizers.get(model)
    if columnizer is None:
        columnizer = _columnizers[model] = Columnizer(model.layout, model.config.segments)
    return columnizer
