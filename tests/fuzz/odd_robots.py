"""Robots in MJCF, or what should be: name -> bytes. Used by test_fuzz_robots.py. Place: fewstep/simulators/mujoco.py."""

from odd_json import files_damaged
from odd_lived import zipped

CART = """<mujoco model="cart"><option timestep="0.025" gravity="0 0 0"/><worldbody><body name="torso">
<joint name="rail" type="slide" axis="1 0 0"/><joint name="lift" type="slide" axis="0 0 1"/>
<geom name="box" size="0.1" mass="2"/></body></worldbody>
<actuator><motor name="push" joint="rail" gear="3"/></actuator></mujoco>"""


def cart(**parts):
    """The cart with parts of its file replaced, by words that name them."""
    places = {"option": "", "top": "", "world": "", "body": "", "joint": "", "geom": 'size="0.1" mass="2"', "motor": 'gear="3"'}
    given = {"timestep": "0.025", "root": 'axis="1 0 0" type="slide"', "motors": ""} | places | parts
    joint = f'<joint name="rail" {given["root"]} {given["joint"]}/>' if given["root"] else ""
    motor = f'<motor name="push" joint="rail" {given["motor"]}/>' if given["motor"] is not None else ""
    return (
        f'<mujoco>{given["top"]}<option timestep="{given["timestep"]}" gravity="0 0 0" {given["option"]}/>'
        f"<worldbody>{given['world']}"
        f'<body name="torso">{joint}<geom name="box" {given["geom"]}/>{given["body"]}</body></worldbody>'
        f"<actuator>{motor}{given['motors']}</actuator></mujoco>"
    ).encode()


def robots():
    """MJCF, or what should be."""
    sound = CART.encode()
    yield "sound", sound
    for name, content in files_damaged(sound):
        yield name, content
    for name in ("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037"):
        yield f"in {name}", CART.replace("torso", "Höhe").encode(name)
        yield f"in {name}, as it says", (f'<?xml version="1.0" encoding="{name}"?>' + CART.replace("rail", "Höhe")).encode(name)
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    for where in ("model", "axis"):
        inside = CART.replace('model="cart"', f'model="{"&a11;" if where == "model" else "cart"}"')
        inside = inside.replace('"1 0 0"', '"&a11;"') if where == "axis" else inside
        yield f"a billion laughs in {where}", f'<!DOCTYPE mujoco [<!ENTITY a0 "1 ">{entities}]>{inside}'.encode()
    for path in (
        "/etc/passwd",
        "../../x",
        "nowhere.xml",
        "robot.xml",
        "./robot.xml",
        "",
        ".",
        "/dev/zero",
        "/dev/stdin",
        "x" * 9999,
        "\x01",
    ):
        yield f"includes {path[:20]!r}", cart(top=f'<include file="{path}"/>')
        yield f"a mesh of {path[:20]!r}", cart(top=f'<asset><mesh name="m" file="{path}"/></asset>')
        yield f"a texture of {path[:20]!r}", cart(top=f'<asset><texture name="t" type="2d" file="{path}"/></asset>')
        yield f"a height field of {path[:20]!r}", cart(top=f'<asset><hfield name="h" size="1 1 1 1" file="{path}"/></asset>')
    yield (
        "an entity of a file",
        b'<!DOCTYPE mujoco [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + CART.replace('"cart"', '"&x;"').encode(),
    )
    yield "nothing but the root", b"<mujoco/>"
    yield "another root", b"<robot/>"
    yield "urdf", b'<robot name="r"><link name="a"/></robot>'
    yield "html", b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
    yield "no actuators", cart(motor=None)
    yield "no joints", cart(root="", motor=None)
    yield (
        "no joints, a motor of a site",
        cart(root="", motor=None, body='<site name="s"/>', motors='<general site="s" gear="1 0 0 0 0 0"/>'),
    )
    yield "no joints, a motor of a body", cart(root="", motor=None, motors='<adhesion body="torso" gain="1" ctrlrange="0 1"/>')
    yield "no bodies", b'<mujoco><worldbody><site name="s"/></worldbody><actuator><general site="s"/></actuator></mujoco>'
    yield "a motor of no joint", cart(motors='<motor joint="nowhere"/>')
    yield "a motor of nothing", cart(motors="<motor/>")
    yield "a free root", cart(root='type="free"')
    yield "a ball", cart(root='type="ball"')
    yield "a hinge", cart(root='type="hinge"')
    yield "a slide upwards", cart(root='axis="0 0 1" type="slide"')
    yield "two free roots", cart(root='type="free"', world='<body pos="3 0 0"><freejoint/><geom size="0.1"/></body>')
    yield (
        "a free body after others",
        cart(world='<body pos="3 0 0"><joint type="hinge"/><geom size="0.1"/></body>', root='type="free"'),
    )
    yield "one slide alone", cart()
    yield "a mocap body", cart(world='<body mocap="true" name="m"><geom size="0.1"/></body>')
    for value in ("nan", "inf", "-1", "0", "1e-300", "1e300", "1e400", "x", "", "1 2 3", "9" * 999, "1,5", "NaN", "0x10"):
        yield f"mass {value[:9]!r}", cart(geom=f'size="0.1" mass="{value}"')
        yield f"size {value[:9]!r}", cart(geom=f'size="{value}"')
        yield f"time step {value[:9]!r}", cart(timestep=value)
        yield f"gear {value[:9]!r}", cart(motor=f'gear="{value}"')
        yield f"damping {value[:9]!r}", cart(joint=f'damping="{value}"')
        yield f"armature {value[:9]!r}", cart(joint=f'armature="{value}"')
        yield f"axis {value[:9]!r}", cart(root=f'axis="{value} 0 0" type="slide"')
        yield f"range {value[:9]!r}", cart(motor=f'gear="1" ctrlrange="-1 {value}"')
        yield f"both ends {value[:9]!r}", cart(motor=f'gear="1" ctrllimited="true" ctrlrange="{value} {value}"')
        yield f"place {value[:9]!r}", cart(body=f'<body pos="{value} 0 0"><joint/><geom size="0.1"/></body>')
        yield f"quaternion {value[:9]!r}", cart(body=f'<body quat="{value} 0 0 0"><joint/><geom size="0.1"/></body>')
    for value in ("1e-9", "1e-5", "1e-4", "1", "1e9"):
        yield f"time step {value}", cart(timestep=value)
    for option in (
        'iterations="2000000000"',
        'integrator="implicit"',
        'solver="CG"',
        'tolerance="-1"',
        'noslip_iterations="2000000000"',
        'density="1e300"',
    ):
        yield f"option {option}", cart(option=option)
    for size in (
        'memory="1000G"',
        'memory="-1"',
        'memory="1"',
        'nuserdata="2000000000"',
        'nuser_body="2000000000"',
        'njmax="2000000000"',
        'nstack="2000000000"',
    ):
        yield f"size {size}", cart(top=f"<size {size}/>")
    inner = '<body pos="1 0 0"><joint/><geom size="0.1"/></body>'
    for count in (100, 1000):
        yield f"a body {count} times", cart(world=f'<replicate count="{count}" offset="1 0 0"><geom size="0.1"/></replicate>')
        yield f"a joint {count} times", cart(world=f'<replicate count="{count}" offset="1 0 0">{inner}</replicate>')
        yield (
            f"a texture of {count}",
            cart(top=f'<asset><texture name="t" type="2d" builtin="flat" width="{count}" height="{count}"/></asset>'),
        )
        yield (
            f"a height field of {count}",
            cart(top=f'<asset><hfield name="h" size="1 1 1 1" nrow="{count}" ncol="{count}"/></asset>'),
        )
    cloth = '<flexcomp name="f" type="grid" dim="2" count="4 4 1" spacing="1 1 1" radius="0.1"/>'
    yield "a cloth", cart(world=cloth)
    yield (
        "replicated thrice",
        cart(world='<replicate count="10" offset="1 0 0">' * 3 + '<geom size="0.1"/>' + "</replicate>" * 3),
    )
    yield (
        "a thousand deep",
        b"<mujoco><worldbody>" + b"<body><joint/><geom size='1'/>" * 1000 + b"</body>" * 1000 + b"</worldbody></mujoco>",
    )
    yield (
        "a hundred thousand deep",
        b"<mujoco><worldbody>" + b"<body>" * 100_000 + b"</body>" * 100_000 + b"</worldbody></mujoco>",
    )
    yield "defaults a hundred thousand deep", b"<mujoco>" + b"<default>" * 100_000 + b"</default>" * 100_000 + b"</mujoco>"
    yield "a plugin that is not there", cart(top='<extension><plugin plugin="nowhere.plugin"/></extension>')
    yield "a plugin by its path", cart(top='<extension><plugin plugin="../../x.so"/></extension>')
    yield "a plugin of a motor", cart(motors='<plugin joint="rail" plugin="nowhere"/>')
    yield (
        "a plugin of MuJoCo",
        cart(top='<extension><plugin plugin="mujoco.pid"/></extension>', motors='<plugin joint="rail" plugin="mujoco.pid"/>'),
    )
    for name in (
        "",
        " ",
        "torso",
        "rail velocity",
        "rail command",
        "Höhe",
        "😀",
        "&#x1b;[31m",
        "x" * 9999,
        "../../x",
        "%s",
        "[bold]",
        "robot",
        "@file",
        "a,b",
        "&#10;",
        "&#0;",
    ):
        yield f"a joint {name[:12]!r}", cart(body=f'<body><joint name="{name}"/><geom size="0.1"/></body>')
        yield f"a motor {name[:12]!r}", cart(motors=f'<motor name="{name}" joint="rail"/>')
    for actuator in (
        '<muscle joint="rail"/>',
        '<general joint="rail" dyntype="user"/>',
        '<position joint="rail" kp="nan"/>',
        '<velocity joint="rail" kv="1e300"/>',
        '<general joint="rail" dyntype="filter" dynprm="0"/>',
        '<cylinder joint="rail"/>',
        '<intvelocity joint="rail" actrange="-1 1"/>',
    ):
        yield f"an actuator {actuator}", cart(motors=actuator)
    yield "a thousand motors", cart(motors='<motor joint="rail"/>' * 1000)
    yield "a camera that is huge", cart(world='<camera resolution="100000 100000"/>')
    yield "a keyframe of no number", cart().replace(b"</mujoco>", b'<keyframe><key qpos="nan"/></keyframe></mujoco>')
    yield "a zip", zipped({"robot.xml": sound})
    yield "a comment of a million letters", sound + b"<!--" + b"x" * 1_000_000 + b"-->"
