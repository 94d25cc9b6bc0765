"""Families of faults in YAML, or what should be: name -> bytes. Used by test_fuzz_robots.py. Place: `read_family` of
fewstep/apps/robots/faults.py."""

import json

from odd_json import OTHERS, files_damaged

FAMILY = "- {field: actuator_gear, between: [0.5, 1.5]}\n- {field: body_mass, of: torso, among: [1.0, 2.0]}\n"
FIELDS = [
    *(
        "body_inertia",
        "body_pos",
        "body_quat",
        "body_parentid",
        "dof_damping",
        "dof_jntid",
        "jnt_range",
        "jnt_axis",
        "geom_size",
    ),
    *("geom_rgba", "geom_friction", "actuator_ctrlrange", "actuator_gainprm", "actuator_trntype", "tendon_stiffness", "nbody"),
    *("qpos0", "opt", "__class__", "__init__", "body", "_address", "body_", "actuator", "names", "stat", "geom_dataid", "Höhe"),
    *("body_mass ", "BODY_MASS", "\x1b[31m", "../../x", "body_mass.__class__", "mesh_vert", "body_subtreemass", "geom_margin"),
    *(
        "dof_M0",
        "dof_length",
        "dof_invweight0",
        "body_invweight0",
        "body_margin",
        "actuator_acc0",
        "actuator_length0",
        "geom_rbound",
    ),
    *(
        "geom_aabb",
        "geom_solmix",
        "geom_user",
        "jnt_user",
        "actuator_user",
        "tendon_length0",
        "cam_pos0",
        "light_pos0",
        "key_qpos",
    ),
    *("sensor_noise", "site_pos", "dof_solref", "jnt_margin", "actuator_lengthrange"),
]
"""of a change: what is none of the model, or none that faults should change"""


def families():
    """YAML, or what should be."""
    sound = FAMILY.encode()
    yield "sound", sound
    for name, content in files_damaged(sound):
        yield name, content
    for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp037", "utf-7"):
        yield f"in {name}", FAMILY.replace("torso", "Höhe").encode(name)
    change = {"field": "body_mass", "between": [0.5, 1.5]}
    more = {"of": "torso", "any": 1, "alike": True, "among": [1.0, 2.0]}
    for part in ("field", "between", "among", "of", "any", "alike"):
        sound_change = change | ({part: more[part]} if part in more else {})
        if part == "among":
            del sound_change["between"]
        for kind, value in OTHERS.items():
            yield f"{part} is {kind}", json.dumps([sound_change | {part: value}]).encode()
        for kind, value in {
            **{
                "a date": "2016-01-31",
                "bytes": "!!binary aGVsbG8=",
                "a set": "!!set {a, b}",
                "the letter 1": '"1"',
                "no": "no",
            },
            **{"a tilde": "~", "base 60": "1:30", "octal": "0o17", "hexadecimal": "0xff", "minus infinity": "-.inf"},
            **{"words of numbers": '["1", "2"]', "words": '"12"', "wrong order": "[2, 1]", "three": "[1, 2, 3]", "one": "[1]"},
            **{"pairs": "!!pairs [a: 1]", "huge": "[1e300, 1e308]", "tiny": "[1e-320, 1e-300]", "yes and no": "[true, false]"},
            **{
                "minus": "[-1, 1]",
                "zeros": "[0, 0]",
                "no number": "[.nan, .nan]",
                "infinite": "[.inf, .inf]",
                "a float": "1.5",
            },
            **{"a million": f"[{'1, ' * 100_000}1]", "ten thousand digits": "9" * 10_000, "huge whole": f"[0, {'9' * 400}]"},
            **{
                "a tag": "!!python/object/apply:os.system [touch owned]",
                "itself": "&a [*a]",
                "a mapping": "{1: 2}",
                "one x": "[x]",
            },
        }.items():
            text = json.dumps([{name: each for name, each in sound_change.items() if name != part}])[1:-2]
            yield f"{part} is {kind} of YAML", f"- {text}, {part}: {value}}}\n".encode()
    for field in FIELDS:
        for factors in ([0.5, 1.5], [-1.0, 1.0], [1.0, 1.0]):
            yield f"field {field!r} {factors}", json.dumps([{"field": field, "between": factors}]).encode()
    for name in (
        "",
        "torso ",
        "Torso",
        "world",
        "push",
        "Höhe",
        "😀",
        "\x1b[31m",
        "x" * 10_000,
        "../../x",
        "%s",
        "{}",
        "[bold]",
    ):
        yield f"of {name[:20]!r}", json.dumps([change | {"of": name}]).encode()
    yield "of twice the same", b"- {field: body_mass, of: [torso, torso], between: [0.5, 1.5]}"
    yield "a part more", json.dumps([change | {"warp": 9}]).encode()
    yield "a part with an odd name", json.dumps([change | {"\x1b[31m" + "x" * 10_000: 9}]).encode()
    yield "a thousand parts more", json.dumps([change | {f"warp{number}": 9 for number in range(1000)}]).encode()
    yield "a part whose name is a number", b"- {field: body_mass, between: [0.5, 1.5], 1: 2, ~: 3, true: 4, 1.5: 2}"
    yield "a part whose name is a list", b"- {field: body_mass, [1, 2]: 3}"
    yield "a part whose name is a mapping", b"- {? {a: 1} : 3}"
    yield "a part given twice", b"- {field: body_mass, field: body_inertia, between: [0.5, 1.5], between: [1, 2]}"
    yield "a merge", b"- &a {field: body_mass, between: [0.5, 1.5]}\n- {<<: *a, of: torso}"
    yield "a merge of no mapping", b"- {<<: 3, field: body_mass}"
    yield "a merge with itself", b"- &a {<<: *a, field: body_mass}"
    yield "a list of itself", b"&a [*a]"
    yield "a change of itself", b"- &a {field: body_mass, between: [1, 2], of: [*a]}"
    yield "an alias to nothing", b"- *nowhere"
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    yield "a billion laughs", bomb.encode()
    inner = bomb.replace("\n", ", ")
    yield "a billion laughs in a list", f"[{{{inner}}}]".encode()
    for part in ("of", "among", "between", "any", "field", "alike"):
        yield f"a billion laughs in {part}", f"- {{field: body_mass, {inner.replace('a11:', f'{part}:')}}}".encode()
    merged = "- &a0 {x: 1}\n" + "".join(f"- &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
    yield "a billion merges", merged.encode()
    for tag in ("object/apply:os.system [touch owned]", "object/new:os.mkdir [owned]", "name:os.system ''", "module:os ''"):
        yield f"a tag {tag.partition(' ')[0]}", f"- !!python/{tag}\n".encode()
    for tag in (
        "int ~",
        'int ""',
        "bool x",
        "float x",
        "timestamp x",
        "binary é",
        "omap 1",
        "set [1]",
        "map 1",
        "null x",
        "seq 1",
        "str [1]",
    ):
        yield f"a tag {tag}", f"- {{field: body_mass, between: !!{tag}}}".encode()
    yield "a date that is none", b"- {field: body_mass, between: 2016-13-45}"
    yield "a tag of its own", b"- !robot {field: body_mass, between: [0.5, 1.5]}"
    yield "a deep list", b"[" * 50_000 + b"]" * 50_000
    yield "a deep list that never ends", b"[" * 50_000
    yield "deep by lines", b"".join(b" " * depth + b"-\n" for depth in range(2_000))
    yield "a deep part", b"- {field: body_mass, between: " + b"[" * 5_000 + b"]" * 5_000 + b"}"
    yield "a thousand changes", sound * 500
    yield "a hundred thousand changes", b"- {field: body_mass, between: [1, 2]}\n" * 100_000
    yield "a million entries", b"- 1\n" * 1_000_000
    yield "two documents", b"---\n" + sound + b"---\n" + sound
    for text in (
        "[]",
        "{}",
        "- []",
        "- {}",
        "- ~",
        "--- ",
        "3",
        "word",
        '""',
        "# a comment",
        "%YAML 9.9\n---\n- 1",
        "\t- a",
        "- a: b: c",
    ):
        yield f"only {text!r}", text.encode()
    for text in (
        "@",
        "`",
        "- {field: body_mass",
        "- 'a",
        '- "\\x"',
        "&",
        "*",
        "!<",
        "%",
        "? ",
        "- |\n a\n  b\n c",
        "a: 1\na: 2\n- 3",
    ):
        yield f"only {text!r}", text.encode()
