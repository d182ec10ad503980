"""What a key may be: names joined by "/", none of which leads anywhere else."""


def is_key(key: object) -> bool:
    """Whether this names a file below a place, and cannot name one elsewhere.

    Examples
    --------
    >>> is_key("plates/P1/cells/id/c/0")
    True
    >>> [is_key(k) for k in ("", "/etc/passwd", "a/../../b", "a//b", "./a", "a/")]
    [False, False, False, False, False, False]
    """
    if not isinstance(key, str) or "\0" in key:
        return False
    return all(name not in ("", ".", "..") for name in key.split("/"))
