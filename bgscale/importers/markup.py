"""XML that instruments write, read as a stream and without trust.

A document type declaration is refused: it is the way to entities that expand without end or name
other files, and no instrument writes one. Only the elements asked for are kept, so that an index of
a million images takes the memory of one.
"""

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from bgscale.errors import InputError

DEEPEST = 200
_UNITS_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3}


class _Gatherer:
    """Builds the outermost elements of some names; hears the parser's events."""

    def __init__(self, wanted: frozenset[str], where: str) -> None:
        self.complete: list[Element] = []
        self._wanted = wanted
        self._where = where
        self._depth = 0
        self._builder: TreeBuilder | None = None
        self._began = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            msg = f"{self._where}: elements nested more than {DEEPEST} deep"
            raise InputError(msg)
        name = _local(tag)
        if self._builder is None and name in self._wanted:
            self._builder, self._began = TreeBuilder(), self._depth
        if self._builder is not None:
            self._builder.start(name, {_local(k): v for k, v in attributes.items()})

    def data(self, text: str) -> None:
        if self._builder is not None:
            self._builder.data(text)

    def end(self, tag: str) -> None:
        if self._builder is not None:
            self._builder.end(_local(tag))
            if self._depth == self._began:
                self.complete.append(self._builder.close())
                self._builder = None
        self._depth -= 1

    def doctype(self, *_: object) -> None:
        msg = (
            f"{self._where} has a document type declaration (DTD), which can name other files and "
            "grow without end; it is not read: remove the declaration if you trust the file"
        )
        raise InputError(msg)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def elements(blocks: Iterable[bytes], wanted: Iterable[str], where: str) -> Iterator[Element]:
    """Yield the outermost elements of the wanted names, in the document's order.

    Parameters
    ----------
    blocks : iterable of bytes
        The document, in pieces.
    wanted : iterable of str
        Names without namespace.
    where : str
        Said in errors.

    Raises
    ------
    InputError
        Not well-formed, nested too deep, or with a DTD.

    Examples
    --------
    >>> text = b"<a xmlns='urn:x'><b><c>1</c></b><b/></a>"
    >>> [(e.tag, e.findtext("c")) for e in elements([text], ["b"], "a.xml")]
    [('b', '1'), ('b', None)]
    """
    gatherer = _Gatherer(frozenset(wanted), where)
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = gatherer.start
    parser.EndElementHandler = gatherer.end
    parser.CharacterDataHandler = gatherer.data
    parser.StartDoctypeDeclHandler = gatherer.doctype
    try:
        for block in blocks:
            parser.Parse(block, False)  # noqa: FBT003  expat takes no keywords
            yield from gatherer.complete
            gatherer.complete.clear()
        parser.Parse(b"", True)  # noqa: FBT003
    except expat.ExpatError as error:
        msg = f"{where} is not well-formed XML: {error}"
        raise InputError(msg) from None
    yield from gatherer.complete


def number(text: str | None) -> float | None:
    """Return a finite positive number, or None where there is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def micrometres(text: str | None, unit: str) -> float | None:
    """Return a length in µm; None where it is no length of a known unit.

    Examples
    --------
    >>> micrometres("2.5E-07", "m"), micrometres("0", "m"), micrometres("3", "pixel")
    (0.25, None, None)
    """
    value, factor = number(text), _UNITS_UM.get(unit)
    return None if value is None or factor is None else float(f"{value * factor:.12g}")
