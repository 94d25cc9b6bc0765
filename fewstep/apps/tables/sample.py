"""fewstep sample-table --out FILE: writes a generated table to try the commands on.

Cold-storage rooms: how much energy a room uses in a day. Every room has its own size, insulation, cooling machine and
week: one model of all rooms is poor, and ten days of a room tell most about it. The table has what real ones have: a
date, a number, words, yes or no, gaps in two inputs and in the target, and rooms without a meter, whose energy was read
on ten days only; for the other days there are `adapt` and `predict`."""

from __future__ import annotations

import datetime
import json as to_json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fewstep.cli.arguments import command_name, say
from fewstep.errors import InputError
from fewstep.storage.tables import new_table, write_table

FIRST_DAY, DAYS = datetime.date(2025, 3, 1), 122
LEAST_ROWS, MOST_ROWS = 30, 60
KNOWN_ROWS = 10
"""So many rows of a room without a meter have their energy; one room in twenty is such a one."""
ENERGY = "energy_kwh"
STORED_AT = {"fish": -20.0, "flowers": 5.0, "fruit": 2.0, "meat": -4.0}
"""Product -> temperature of its room, °C."""


@dataclass(frozen=True)
class SampleTable:
    """Write a generated table to try it all on: the energy that cold-storage rooms use, by day."""

    out: str
    """the file to write: .csv, .tsv, .parquet, .arrow, .feather, .json or .jsonl"""
    units: int = 60
    """how many rooms, with 30 to 60 rows each; intervals at 95 per cent want some 220 of them"""
    seed: int = 0
    """decides everything random"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        out = new_table(self.out)
        if not 10 <= self.units <= 100_000:
            raise InputError(f"--units should lie between 10 and 100000, got {self.units}.")
        if self.seed < 0:
            raise InputError(f"--seed should be at least 0, got {self.seed}.")
        table = cold_rooms(self.units, self.seed)
        write_table(table, out)
        commands = next_commands(out)
        if self.json:
            print(to_json.dumps({"table": str(out), "rows": table.height, "units": self.units, "next": commands}))
            return 0
        say(f"{table.height} rows of {self.units} cold-storage rooms -> {out}")
        say(f"columns: {', '.join(table.columns)}")
        last = unmetered(self.units)
        which = "The last room has" if last == 1 else f"The last {last} rooms have"
        say(f"{which} no meter: {ENERGY} was read on {KNOWN_ROWS} days only, too few to train on.")
        say("adapt takes these days, predict fills in the others.")
        say("\nTry next:\n" + "\n".join(f"  {command}" for command in commands))
        return 0


def next_commands(out: Path) -> list[str]:
    """What to try with the table in `out`, beside which the results are written."""
    beside = lambda name: shlex.quote(str(out.with_name(name)))  # noqa: E731
    run, adapted, predictions = (beside(f"{out.stem}_{what}") for what in ("run", "adapted", f"predictions{out.suffix}"))
    name, data = command_name(), shlex.quote(str(out))
    inputs = "day outside_temperature product delivery"
    return [
        f"{name} train table --data {data} --task room --inputs {inputs} --target {ENERGY} --out {run}",
        f"{name} adapt {run} --support {data} --out {adapted}",
        f"{name} predict {adapted} --inputs {data} --out {predictions}",
    ]


def unmetered(units: int) -> int:
    """How many rooms, the last ones, have no meter."""
    return max(1, units // 20)


def cold_rooms(units: int, seed: int) -> pl.DataFrame:
    """The table, sorted by room and day: room, day, outside_temperature (°C), product, delivery, energy_kwh.

    Energy is size · (1 + leak · (outside − inside) / 20 K + machine · heat + wave of the week + door · delivery) · noise. Size,
    leak, machine, wave and door are the room's own; heat is what the outside temperature has above 16 °C, in units of 10 K.
    """
    rng = np.random.default_rng(seed)
    # Which days of which room: the first so many of a random order, in the order of time.
    count = rng.integers(LEAST_ROWS, MOST_ROWS + 1, units)
    chosen = np.argsort(rng.random((units, DAYS)), axis=1).argsort(axis=1) < count[:, None]
    room, day = np.nonzero(chosen)
    weekday = (day + FIRST_DAY.weekday()) % 7

    spring = 3.0 + 18.0 * np.arange(DAYS) / (DAYS - 1)
    weather = spring + rng.normal(0.0, 2.0, (units, 1)) + _wandering(rng, (units, DAYS), deviation=3.0)  # rooms lie far apart
    outside = np.round(weather[room, day], 1)

    names = np.array(list(STORED_AT))
    product, later = rng.integers(0, names.size, (2, units))
    change = rng.integers(20, 2 * DAYS, units)  # the day from which a room stores something else, for many after the last one
    stored = np.where(day < change[room], product[room], later[room])
    inside = np.array(list(STORED_AT.values()))[stored]
    busy = rng.random((units, 7)) < np.array([0.6, 0.4, 0.5, 0.4, 0.6, 0.15, 0.0])  # days on which a room gets deliveries
    delivery = busy[room, weekday] & (rng.random(room.size) < 0.9)

    size = 65.0 * np.exp(rng.uniform(-0.5, 0.5, units))
    leak, machine = rng.uniform(0.1, 0.7, units), rng.uniform(0.1, 0.5, units)
    week, peak, door = rng.uniform(0.0, 0.2, units), rng.uniform(0.0, 7.0, units), rng.uniform(0.05, 0.4, units)
    heat = np.maximum(outside - 16.0, 0.0) / 10.0
    wave = week[room] * np.cos(2 * np.pi * (weekday - peak[room]) / 7)
    load = 1.0 + leak[room] * np.maximum(outside - inside, 0.0) / 20.0 + machine[room] * heat + wave + door[room] * delivery
    energy = np.round(size[room] * load * np.exp(rng.normal(0.0, 0.02, room.size)), 1)

    order = rng.random(room.size)
    unread = rng.random(room.size) < 0.01
    known = np.lexsort((order, room)).argsort() - np.searchsorted(room, room) < KNOWN_ROWS
    return pl.DataFrame(
        {
            "room": [f"room-{number:0{len(str(units))}}" for number in (room + 1).tolist()],
            "day": [FIRST_DAY + datetime.timedelta(days=number) for number in day.tolist()],
            "outside_temperature": _with_gaps(outside, rng.random(room.size) < 0.02),
            "product": pl.Series(names[stored].tolist()).set(pl.Series(rng.random(room.size) < 0.01), None),
            "delivery": pl.Series(np.where(delivery, "yes", "no").tolist()),
            ENERGY: _with_gaps(energy, np.where(room >= units - unmetered(units), ~known, unread)),
        }
    )


def _wandering(rng: np.random.Generator, shape: tuple[int, int], deviation: float) -> np.ndarray:
    """[rooms, days] of weather around the season: each day much like the one before it."""
    memory, values = 0.7, rng.normal(0.0, deviation, shape)
    for day in range(1, shape[1]):
        values[:, day] = memory * values[:, day - 1] + np.sqrt(1 - memory**2) * values[:, day]
    return values


def _with_gaps(values: np.ndarray, gaps: np.ndarray) -> pl.Series:
    return pl.Series(np.where(gaps, np.nan, values)).fill_nan(None)
