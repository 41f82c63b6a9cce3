"""Products on disk."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from sqlalchemy import bindparam, func, insert, select, update

from nanoclaw_core.errors import Kind, NanoclawError, Violation, not_found
from nanoclaw_core.ids import check_name
from nanoclaw_governance.act import Act
from nanoclaw_governance.form import check_line, check_text, raise_invalid, required
from nanoclaw_governance.product import Product, ProductChange, decide_update
from nanoclaw_governance.tables import LOG, PRODUCTS
from nanoclaw_store import Change, Statement, Tx, prepare

MAX_NAME = 100
"""Bytes."""

_BY_ID = prepare(select(PRODUCTS).where(PRODUCTS.c.id == bindparam("product_id")))
_BY_NAME = prepare(select(PRODUCTS).where(PRODUCTS.c.name == bindparam("product_name")))
_PAGE = prepare(
    select(PRODUCTS)
    .where(
        PRODUCTS.c.id > bindparam("after"),
        (PRODUCTS.c.status == bindparam("wanted")) | (bindparam("wanted") == ""),
    )
    .order_by(PRODUCTS.c.id)
    .limit(bindparam("most"))
)
_COUNT = prepare(select(func.count()).select_from(PRODUCTS))
_INSERT = prepare(insert(PRODUCTS))


@lru_cache(maxsize=64)
def _update(columns: tuple[str, ...]) -> Statement:
    return prepare(
        update(PRODUCTS).where(
            PRODUCTS.c.id == bindparam("decided_id"), PRODUCTS.c.version == bindparam("decided_version")
        ),
        columns,
    )


def by_id(tx: Tx, product_id: str) -> Product | None:
    """The product of that id."""
    row = tx.one(_BY_ID, product_id=product_id)
    return Product(*row) if row is not None else None


def by_name(tx: Tx, name: str) -> Product | None:
    """The product of that name, or of that id: agents write either."""
    row = tx.one(_BY_NAME, product_name=name)
    return Product(*row) if row is not None else by_id(tx, name)


def find(tx: Tx, wanted: str) -> Product:
    """The product of that id or name. Raises PRODUCT_NOT_FOUND."""
    product = by_id(tx, wanted) or by_name(tx, wanted)
    if product is None:
        raise not_found("product", wanted, "product_id", "list them with ListProducts, or `nanoclaw product list`")
    return product


def page(tx: Tx, after: str, status: str, most: int) -> list[Product]:
    """Products by id; status: only those, empty: all."""
    return [Product(*row) for row in tx.all(_PAGE, after=after, wanted=status, most=most)]


def count(tx: Tx) -> int:
    """How many there are."""
    row = tx.one(_COUNT)
    return int(row[0]) if row is not None else 0


def create(tx: Tx, act: Act, name: str, description: str, risk: str, product_id: str) -> Product:
    """A new product, active. Raises PRODUCT_EXISTS, INVALID_FIELD."""
    raise_invalid([*_named(name), *check_text("description", description)])
    if product_id:
        check_name("id", product_id)
    product = Product(product_id or act.new_id(), name, description, "ACTIVE", risk or "NORMAL", 1, tx.now, tx.now)
    _refuse_taken(tx, (product.id, name))
    values = product._asdict()
    tx.run(_INSERT, **values)
    key = {"id": values.pop("id")}
    _record(tx, act, product, "create_product", [Change("products", key, values)], "")
    return product


def change(tx: Tx, act: Act, product_id: str, wanted: ProductChange, reason: str) -> tuple[Product, bool]:
    """The product as it is now, and whether anything changed. Raises what UpdateProduct answers."""
    product = find(tx, product_id)
    raise_invalid(
        [
            *(_named(wanted.name) if wanted.name is not None else ()),
            *check_text("description", wanted.description or ""),
            *check_text("reason", reason),
        ]
    )
    changes = decide_update(product, wanted, act.caller, act.policy, tx.now)
    if not changes:
        return product, False
    if "name" in changes:
        _refuse_taken(tx, (changes["name"],), product.id)
    updated = tx.run(_update(tuple(changes)), decided_id=product.id, decided_version=product.version, **changes)
    if updated != 1:
        raise NanoclawError(
            Kind.CONFLICT,
            "STALE_VERSION",
            f"product {product.id} changed underneath",
            next_step="read the product again and decide anew",
        )
    changed = product._replace(**changes)
    _record(tx, act, changed, "update_product", [Change("products", {"id": product.id}, changes)], reason)
    return changed, True


def _named(name: str) -> Iterator[Violation]:
    yield from required("name", name, MAX_NAME)
    yield from check_line("name", name)


def _refuse_taken(tx: Tx, names: Sequence[str], own_id: str = "") -> None:
    """A name is taken if a product has it as its name or its id: both find it."""
    for name in names:
        other = by_id(tx, name) or by_name(tx, name)
        if other is not None and other.id != own_id:
            raise NanoclawError(
                Kind.CONFLICT,
                "PRODUCT_EXISTS",
                f"there is a product {name!r} already",
                next_step="choose another name",
                product=other.id,
            )


def _record(tx: Tx, act: Act, product: Product, action: str, changes: Sequence[Change], reason: str) -> None:
    caller = act.caller
    LOG.append(
        tx,
        action=action,
        principal=caller.principal,
        changes=changes,
        subject=product.id,
        via=caller.via,
        attempt_id=caller.attempt,
        reason=reason,
        policy_version=act.policy.version,
        request_ref=act.request_ref,
        trace_id=act.trace_id,
    )
