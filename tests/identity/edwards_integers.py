"""ECVRF-EDWARDS25519-SHA512-TAI in Python integers, step by step as RFC 9381 and RFC 8032 write it: to compare with.

Points are affine (x, y). Slow, not constant in time, and shares nothing with the package but hashlib.
"""

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
ZERO = (0, 1)
SUITE = b"\x03"


def sha512(*parts):
    return hashlib.sha512(b"".join(parts)).digest()


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def negate(a):
    return -a[0] % P, a[1]


def times(n, a):
    total = ZERO
    while n:
        if n & 1:
            total = add(total, a)
        a, n = add(a, a), n >> 1
    return total


def encode(a):
    return (a[1] | (a[0] & 1) << 255).to_bytes(32, "little")


def decode(text):
    """RFC 8032, section 5.1.3; None is INVALID."""
    number = int.from_bytes(text, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    return (P - x if x & 1 != sign else x), y


BASE = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def torsion():
    """The 8 points of order 1, 2, 4 or 8."""
    y = 2
    while True:
        point = decode(y.to_bytes(32, "little"))
        small = point and times(L, point)
        if small and times(4, small) != ZERO:
            return [times(n, small) for n in range(8)]
        y += 1


def expand(seed):
    digest = sha512(seed)
    x = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    return x, digest[32:]


def to_curve(public, alpha):
    """H and the counter that gave it."""
    for counter in range(256):
        point = decode(sha512(SUITE, b"\x01", public, alpha, bytes([counter]), b"\x00")[:32])
        if point is not None and times(8, point) != ZERO:
            return times(8, point), counter
    raise AssertionError("a chance of 2^-256")


def challenge(*points):
    return sha512(SUITE, b"\x02", *points, b"\x00")[:16]


def prove(seed, alpha):
    """All that the RFC's vectors give, in bytes, by their names there."""
    x, prefix = expand(seed)
    pk = encode(times(x, BASE))
    h, counter = to_curve(pk, alpha)
    gamma = times(x, h)
    k_string = sha512(prefix, encode(h))
    k = int.from_bytes(k_string, "little") % L
    u, v = times(k, BASE), times(k, h)
    c = challenge(pk, encode(h), encode(gamma), encode(u), encode(v))
    s = (k + int.from_bytes(c, "little") * x) % L
    return {
        "x": x.to_bytes(32, "little"),
        "PK": pk,
        "ctr": counter,
        "H": encode(h),
        "k": k_string,
        "U": encode(u),
        "V": encode(v),
        "pi": encode(gamma) + c + s.to_bytes(32, "little"),
        "beta": output(gamma),
    }


def output(gamma):
    return sha512(SUITE, b"\x03", encode(times(8, gamma)), b"\x00")


def verify(public, alpha, proof):
    """RFC 9381, section 5.3 with validate_key: beta, or None."""
    y, gamma = decode(public), decode(proof[:32])
    c, s = int.from_bytes(proof[32:48], "little"), int.from_bytes(proof[48:], "little")
    if y is None or gamma is None or s >= L or times(8, y) == ZERO:
        return None
    h, _ = to_curve(public, alpha)
    u = add(times(s, BASE), negate(times(c, y)))
    v = add(times(s, h), negate(times(c, gamma)))
    if challenge(public, encode(h), encode(gamma), encode(u), encode(v)) != proof[32:48]:
        return None
    return output(gamma)
