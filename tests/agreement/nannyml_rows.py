"""Runs in NannyML's own environment: its data, and what it estimates of each chunk, as JSON lines on stdout."""

import json
import sys

import nannyml
import pandas as pd

CHUNK = int(sys.argv[1])
METRICS = ["accuracy", "precision", "recall", "f1"]

reference, analysis, targets = nannyml.load_synthetic_car_loan_dataset()
estimator = nannyml.CBPE(
    problem_type="classification_binary",
    y_pred_proba="y_pred_proba",
    y_pred="y_pred",
    y_true="repaid",
    timestamp_column_name="timestamp",
    metrics=METRICS,
    chunk_size=CHUNK,
)
estimated = estimator.fit(reference).estimate(analysis).to_df()


def rows(table: pd.DataFrame) -> list[list[float]]:
    times = pd.to_datetime(table["timestamp"]).astype("int64") // 10**6
    columns = (times, table["y_pred_proba"], table["y_pred"], table["repaid"])
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]


chunks = [
    {name: row[name, "value"] for name in METRICS}
    for _, row in estimated[estimated["chunk", "period"] == "analysis"].iterrows()
]
json.dump(
    {"reference": rows(reference), "analysis": rows(analysis.merge(targets, on="id")), "chunks": chunks}, sys.stdout
)
