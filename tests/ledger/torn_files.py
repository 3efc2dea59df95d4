"""What happens to a ledger's file from outside: pages lost, bytes changed."""

import shutil

PAGE = 4096


def copied(path, folder):
    """A copy of a file, in a new folder."""
    folder.mkdir()
    return shutil.copyfile(path, folder / path.name)


def overwrite(path, start, content):
    """Write ``content`` over what is there; the bytes that are gone."""
    with path.open("r+b") as file:
        file.seek(start)
        gone = file.read(len(content))
        file.seek(start)
        file.write(content)
    return gone


def lose_end(path, pages, how, draw):
    """Lose the last pages: ``cut``, ``torn`` in the middle of the first of them, ``zeros`` or ``noise``.

    What the file held before, and where the damage may begin.
    """
    data = path.read_bytes()
    start = len(data) - pages * PAGE
    if how in ("cut", "torn"):
        path.write_bytes(data[: start + (0 if how == "cut" else draw.randrange(1, PAGE))])
    else:
        overwrite(path, start, bytes(len(data) - start) if how == "zeros" else draw.randbytes(len(data) - start))
    return data, start


def lose_page(path, page, draw):
    """Lose one page to zeros or noise; the bytes that are gone."""
    return overwrite(path, page * PAGE, draw.choice([bytes(PAGE), draw.randbytes(PAGE)]))


def change_bytes(path, draw):
    """Change a few bytes anywhere."""
    for _ in range(draw.choice([1, 3, 30])):
        overwrite(path, draw.randrange(path.stat().st_size - 8), draw.randbytes(draw.choice([1, 8])))
