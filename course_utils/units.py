"""Bytes in words, the same way everywhere in the course: binary units, MiB = 2**20, GiB = 2**30."""

KIB, MIB, GIB = 2**10, 2**20, 2**30


def size(n_bytes: float) -> str:
    """Bytes as people read them: `size(13_476_831_232)` is "12.55 GiB"."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(n_bytes) >= unit:
            return f"{n_bytes / unit:.2f} {name}"
    return f"{n_bytes:.0f} bytes"
