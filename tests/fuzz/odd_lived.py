"""What robots lived through in .npz, or what should be: name -> bytes. Used by test_fuzz_robots.py. Place:
fewstep/apps/robots/data.py."""

import io
import os
import zipfile

import numpy as np
from odd_json import files_damaged

OBSERVED, ACTIONS, STEPS = 3, 1, 6
"""of the cart of odd_robots.py: lift and two velocities, since where it is along the rail is not observed"""


def zipped(members, method=zipfile.ZIP_DEFLATED, **claimed):
    """A zip, whose directory may claim other sizes of members than they have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, size in claimed.items():
            archive.getinfo(f"{name}.npy").file_size = size
    return buffer.getvalue()


def lived(**changes):
    """What carts lived through, as `fewstep gather` writes it, with some arrays replaced or, where None, left out."""
    draw, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 3), ("validation", 2), ("test", 2)):
        arrays[f"{part}_observations"] = draw.standard_normal((count, 2, STEPS + 1, OBSERVED), np.float32)
        arrays[f"{part}_actions"] = draw.standard_normal((count, 2, STEPS, ACTIONS), np.float32)
        arrays[f"{part}_conditions"] = draw.uniform(0.5, 1.5, (count, 2)).astype(np.float32)
    return {name: each for name, each in {**arrays, **changes}.items() if each is not None}


def npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Harm:
    """What a pickle of it would do: make a file where the command runs."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def experiences():
    """What robots lived through, or what should be."""
    sound = lived()
    yield "sound", npz(sound)
    for name, content in files_damaged(npz(sound)):
        yield name, content
    for name, array in sound.items():
        yield f"without {name}", npz(lived(**{name: None}))
        odd = {
            **{"an axis less": array[0], "an axis more": array[None], "no robots": array[:0], "a robot less": array[1:]},
            **{
                "a number less": array[..., 1:],
                "a number more": np.repeat(array, 2, -1),
                "nothing": np.zeros(0),
                "one": array[:1],
            },
            **{
                "a scalar": np.float32(1),
                "float16": array.astype("f2"),
                "float128": array.astype("g"),
                "big-endian": array.astype(">f8"),
            },
            **{"whole": array.astype("i8"), "complex": array.astype("c8"), "yes or no": array > 0, "words": array.astype("U9")},
            **{"bytes": array.astype("S9"), "moments": array.astype("i8").astype("M8[s]"), "objects": array.astype(object)},
            **{
                "no number": np.where(array > 0.9, np.nan, array),
                "infinite": array * np.inf,
                "huge": array * 1e30,
                "far": array * 9999,
            },
            **{
                "zeros": array * 0,
                "a structure": array.astype([("x", "f4")]),
                "backwards": array[::-1, ...],
                "by columns": array.T.copy().T,
            },
            "harm": np.array([Harm()], object),
        }
        if array.ndim == 4:
            odd |= {
                "a step less": array[:, :, 1:],
                "no steps": array[:, :, :0],
                "a run less": array[:, 1:],
                "no runs": array[:, :0],
            }
            odd |= {"many steps": np.repeat(array, 50, 2), "many runs": np.repeat(array, 50, 1)}
        for kind, other in odd.items():
            with np.errstate(all="ignore"):
                yield f"{name}: {kind}", npz(lived(**{name: np.asarray(other)}))
    short = {name: each if "conditions" in name else each[:, :, 2:] for name, each in sound.items()}
    yield "short in all parts", npz(short)
    yield (
        "short in one part",
        npz({**sound, "test_actions": short["test_actions"], "test_observations": short["test_observations"]}),
    )
    yield (
        "conditions of another family",
        npz(lived(**{name: each[:, :1] for name, each in sound.items() if "conditions" in name})),
    )
    yield "another array", npz({**sound, "more": np.array([Harm()], object)})
    members = {f"{name}.npy": npy(each) for name, each in sound.items()}
    yield "compressed", zipped(members)
    yield "compressed by bzip2", zipped(members, zipfile.ZIP_BZIP2)
    yield "names that lead outside", zipped({f"../../{name}": each for name, each in members.items()})
    yield "a name that leads outside, too", zipped({**members, "/../../x": b"x"})
    yield "members without an ending", zipped({name.removesuffix(".npy"): each for name, each in members.items()})
    yield "text in a member", zipped({**members, "test_actions.npy": b"1,2,3"})
    yield "a pickle in a member", zipped({**members, "test_actions.npy": b"cos\nmkdir\n(S'owned'\ntR."})
    yield "a bomb", zipped(members, test_actions=2**31)
    yield "a bomb in a member that is not read", zipped({**members, "more.npy": b""}, more=2**31)
    yield "a member that is larger than it says", zipped(members, test_actions=150)
    header = members["test_actions.npy"]
    for shape in (
        "(99999999999, 2, 6, 1)",
        "(10**99, 1)",
        "(-1, 2, 6, 1)",
        "()",
        "[2]",
        "(2, 2, 6, 1.0)",
        "(True, 2)",
        "((2,),)",
    ):
        old = b"(2, 2, 6, 1), }" + b" " * 60
        new = f"{shape}, }}".encode().ljust(len(old))[: len(old)]
        yield f"a header of shape {shape}", zipped({**members, "test_actions.npy": header.replace(old[: len(new)], new)})
    yield "a header that is code", zipped({**members, "test_actions.npy": header.replace(b"'<f4'", b"'|O' ")})
    for name in ("train_actions", "nothing"):
        yield f"an array alone: {name}", npy(sound.get(name, np.zeros(0)))
    yield "a zip of nothing", zipped({})
