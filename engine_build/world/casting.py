"""Who stands before the camera and where: random people, poses and backdrops."""

from random import Random

from engine_build.world.specs import Backdrop, Person

_SKINS = (
    (0.98, 0.84, 0.74),
    (0.94, 0.76, 0.63),
    (0.87, 0.67, 0.52),
    (0.74, 0.53, 0.38),
    (0.58, 0.39, 0.27),
    (0.42, 0.28, 0.20),
)
_HAIRS = (
    (0.12, 0.10, 0.10),
    (0.26, 0.17, 0.11),
    (0.45, 0.29, 0.16),
    (0.86, 0.69, 0.38),
    (0.70, 0.32, 0.14),
    (0.70, 0.70, 0.72),
    (0.36, 0.12, 0.14),
)
_EYES = ((0.18, 0.12, 0.09), (0.12, 0.28, 0.50), (0.15, 0.36, 0.22), (0.30, 0.20, 0.10))
_WALLS = (
    (0.90, 0.86, 0.78),
    (0.80, 0.87, 0.90),
    (0.86, 0.89, 0.80),
    (0.93, 0.83, 0.80),
    (0.83, 0.81, 0.90),
    (0.70, 0.76, 0.80),
    (0.95, 0.91, 0.84),
    (0.72, 0.66, 0.62),
)
_FLOORS = ((0.66, 0.49, 0.35), (0.78, 0.64, 0.48), (0.55, 0.52, 0.52), (0.74, 0.72, 0.69), (0.48, 0.36, 0.28))
_ACCENTS = (
    (0.42, 0.60, 0.55),
    (0.80, 0.48, 0.36),
    (0.36, 0.46, 0.62),
    (0.86, 0.70, 0.42),
    (0.62, 0.45, 0.58),
)
_SKIES = ((0.62, 0.80, 0.94), (0.97, 0.82, 0.70), (0.78, 0.84, 0.90), (0.55, 0.72, 0.90))
_FACADES = (
    (0.80, 0.62, 0.50),
    (0.72, 0.72, 0.74),
    (0.86, 0.78, 0.66),
    (0.62, 0.50, 0.48),
    (0.66, 0.73, 0.78),
    (0.90, 0.86, 0.80),
)
_PAVEMENTS = ((0.70, 0.69, 0.68), (0.62, 0.61, 0.63), (0.78, 0.74, 0.68))


def sample_person(rng: Random) -> Person:
    """A random person in a random pose; at least one arm hangs."""
    u = rng.uniform
    shoulder = u(0.084, 0.110)
    waist = shoulder * u(0.74, 0.94)
    skin = rng.choice(_SKINS)
    hair = rng.choice(_HAIRS)
    eye = rng.choice(_EYES)
    arms = [_arm(rng, rng.choice((0, 0, 0, 1, 2))), _arm(rng, 0)]
    rng.shuffle(arms)
    style = rng.randrange(8)
    jitter = [u(-0.03, 0.03) for _ in range(3)]
    return Person(
        cx=u(0.345, 0.405),
        foot=u(0.945, 0.962),
        stature=u(0.93, 0.99),
        head=u(0.070, 0.079),
        head_aspect=u(1.04, 1.20),
        shoulder=shoulder,
        waist=waist,
        hip=waist * u(1.04, 1.22),
        arm=u(0.022, 0.028),
        thigh=u(0.040, 0.048),
        ankle=u(0.019, 0.024),
        stance=u(0.045, 0.075),
        left_upper=arms[0][0],
        left_fore=arms[0][1],
        right_upper=arms[1][0],
        right_fore=arms[1][1],
        skin_r=min(1.0, skin[0] + jitter[0]),
        skin_g=skin[1] + jitter[1],
        skin_b=skin[2] + jitter[1],
        hair_r=max(0.05, hair[0] + jitter[2]),
        hair_g=max(0.05, hair[1] + jitter[2]),
        hair_b=max(0.05, hair[2] + jitter[2]),
        hair_style=float(style),
        parting=u(-0.03, 0.03),
        eye_r=eye[0],
        eye_g=eye[1],
        eye_b=eye[2],
        eye_gap=u(0.025, 0.033),
        eye_size=u(0.010, 0.0135),
        brow_tilt=u(-0.006, 0.006),
        brow_thick=u(0.004, 0.0075),
        nose=u(0.008, 0.016),
        mouth_width=u(0.016, 0.028),
        smile=u(-0.002, 0.012),
        lips=u(0.004, 0.0075),
        cheeks=u(0.0, 0.5),
        glasses=float(rng.random() < 0.25),
        beard=u(0.5, 0.95) if style in (0, 1, 2, 6) and rng.random() < 0.35 else 0.0,
    )


def _arm(rng: Random, pose: int) -> tuple[float, float]:
    """Angles of upper arm and forearm: hanging, hand on hip, or raised."""
    if pose == 0:
        return rng.uniform(0.20, 0.42), rng.uniform(0.08, 0.34)
    if pose == 1:
        return rng.uniform(0.75, 0.9), rng.uniform(-0.85, -0.7)
    return rng.uniform(1.1, 1.5), rng.uniform(2.5, 2.9)


def sample_backdrop(rng: Random) -> Backdrop:
    """A random room or street."""
    street = rng.random() < 0.45
    if street:
        colours = (
            rng.choice(_SKIES),
            rng.choice(_PAVEMENTS),
            *rng.sample(_FACADES, 3),
            rng.choice(_ACCENTS),
        )
    else:
        colours = (rng.choice(_WALLS), rng.choice(_FLOORS), *rng.sample(_ACCENTS, 3), rng.choice(_SKIES))
    return Backdrop(float(street), colours, tuple(rng.random() for _ in range(10)))


def hanging_sides(person: Person) -> list[float]:
    """-1 and 1 for the sides whose arm hangs, where "in front of the arm" means something for a bag."""
    arms = ((-1.0, person.left_upper, person.left_fore), (1.0, person.right_upper, person.right_fore))
    return [side for side, upper, fore in arms if abs(upper) < 0.6 and abs(fore) < 0.6]
