"""Board: notices that many read and few change; answers of reads are kept, also that there is none yet.

PUT /board/notices/{slug}  ──► row, forget the notice and the list       in one transaction
GET /board/notices/{slug}  ──► kept for an hour; 404 for half an hour
GET /board/count           ──► kept for an hour, under the tag `board`
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, update

from dujiang import App, Model, Module, Read, Refusal, Tx, columns

metadata = MetaData()
notice = Table(
    "board_notice",
    metadata,
    Column("slug", columns.Key(32), primary_key=True),
    Column("title", columns.Key(64), nullable=False),
    Column("edition", Integer, nullable=False),
)

Slug = Literal["exam", "lunch", "trip", "fair"]


class Title(Model):
    """What a notice says."""

    title: Annotated[str, Field(min_length=1, max_length=64, examples=["moved", "at noon", "cancelled"])]


class Notice(Model):
    """A notice as it hangs."""

    slug: str
    title: str
    edition: int


class Size(Model):
    """How many notices hang."""

    notices: int


class Unnamed(Refusal):
    """The title has no letter in it."""

    code = "unnamed"
    status = 422


board = Module("board", tables=metadata, migrations="bench.planted.apps.migrations.board")


@board.read("GET /board/notices/{slug}", ttl="1h", absent="30m")
async def read_notice(db: Read, slug: Slug) -> Notice | None:
    """A notice."""
    found = (await db.execute(select(notice).where(notice.c.slug == slug))).one_or_none()
    return None if found is None else Notice(slug=found.slug, title=found.title, edition=found.edition)


@board.read("GET /board/count", ttl="1h", tags=("board",))
async def count_notices(db: Read) -> Size:
    """How many notices hang."""
    return Size(notices=(await db.execute(select(func.count()).select_from(notice))).scalar_one())


@board.write("PUT /board/notices/{slug}")
async def put_notice(tx: Tx, slug: Slug, body: Title) -> Notice:
    """Hang a notice, or change one."""
    if not any(letter.isalpha() for letter in body.title):
        raise Unnamed(f"{body.title!r} has no letter", title=body.title)
    changed = update(notice).where(notice.c.slug == slug).values(title=body.title, edition=notice.c.edition + 1)
    if not (await tx.execute(changed)).rowcount:
        await tx.execute(insert(notice), {"slug": slug, "title": body.title, "edition": 1})
        tx.forget("board")
    tx.forget(read_notice, slug)
    hangs = (await tx.execute(select(notice).where(notice.c.slug == slug))).one()
    return Notice(slug=hangs.slug, title=hangs.title, edition=hangs.edition)


@board.invariant("a notice has an edition")
async def every_notice_has_an_edition(db: Read) -> list[Any]:
    """Notices that were never hung."""
    return list((await db.execute(select(notice).where(notice.c.edition < 1))).all())


app = App(modules=[board])
