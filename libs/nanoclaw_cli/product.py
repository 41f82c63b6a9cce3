"""`nanoclaw product`: what tasks are for."""

from typing import Annotated

import typer

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli.channels import governance, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, show, show_list
from nanoclaw_cli.words import PRODUCT_STATUSES, RISKS, when

app = typer.Typer(no_args_is_help=True, help="Products: create, pause, revive, kill.")

Id = Annotated[str, typer.Argument(help="The product's id or name.", metavar="PRODUCT")]
Risk = Annotated[int, RISKS.option()]
Reason = Annotated[str, typer.Option("--reason", "-r")]

COLUMNS: Columns = {
    "id": lambda product: product.id,
    "name": lambda product: product.name,
    "status": lambda product: PRODUCT_STATUSES.word(product.status),
    "risk": lambda product: RISKS.word(product.risk),
    "v": lambda product: product.version,
    "updated": lambda product: when(product, "updated_at"),
}


def _fields(product: pb.Product) -> list[tuple[str, str]]:
    return [
        ("id", product.id),
        ("name", product.name),
        ("description", product.description),
        ("status", PRODUCT_STATUSES.word(product.status)),
        ("risk", RISKS.word(product.risk)),
        ("version", str(product.version)),
        ("created", when(product, "created_at")),
        ("updated", when(product, "updated_at")),
    ]


@command(app, mutates=True)
async def create(
    name: Annotated[str, typer.Argument()],
    description: Annotated[str, typer.Option("--description", "-d")] = "",
    risk: Annotated[int, RISKS.option(default="normal")] = pb.RISK_NORMAL,
    id: Annotated[str, typer.Option(help="An id of your own choosing.")] = "",
) -> None:
    """Creates a product."""
    request = pb.CreateProductRequest(
        request_id=current().request_id,
        name=name,
        description=description,
        risk=risk,  # type: ignore[arg-type]
        id=id,
    )
    async with governance() as stub:
        product = (await stub.CreateProduct(request)).product
    show(product, _fields(product), f"created {product.id}")


@command(app)
async def get(product_id: Id) -> None:
    """One product."""
    async with governance() as stub:
        product = (await stub.GetProduct(pb.GetProductRequest(product_id=product_id))).product
    show(product, _fields(product))


@command(app, "list")
async def list_products(
    status: Annotated[int, PRODUCT_STATUSES.option()] = 0,
    limit: Annotated[int, typer.Option(min=0)] = 100,
) -> None:
    """Products."""
    request = pb.ListProductsRequest(status=status)  # type: ignore[arg-type]
    async with governance() as stub:
        products = await pages(stub.ListProducts, request, "products", limit)
    show_list(products, COLUMNS, "no products")


@command(app, mutates=True)
async def update(
    product_id: Id,
    name: Annotated[str | None, typer.Option()] = None,
    description: Annotated[str | None, typer.Option("--description", "-d")] = None,
    risk: Risk = 0,
    status: Annotated[int, PRODUCT_STATUSES.option()] = 0,
    reason: Reason = "",
) -> None:
    """Changes a product."""
    request = pb.UpdateProductRequest(
        request_id=current().request_id,
        product_id=product_id,
        name=name,
        description=description,
        risk=risk,  # type: ignore[arg-type]
        status=status,  # type: ignore[arg-type]
        reason=reason,
    )
    async with governance() as stub:
        request.product_id = (await stub.GetProduct(pb.GetProductRequest(product_id=product_id))).product.id
        product = (await stub.UpdateProduct(request)).product
    show(product, _fields(product))


@command(app, mutates=True)
async def pause(product_id: Id, reason: Reason = "") -> None:
    """Its tasks stay READY until it is active again."""
    await update(product_id, status=pb.PRODUCT_STATUS_PAUSED, reason=reason)


@command(app, mutates=True)
async def activate(product_id: Id, reason: Reason = "") -> None:
    """Ends a pause, or revives a killed product."""
    await update(product_id, status=pb.PRODUCT_STATUS_ACTIVE, reason=reason)


@command(app, mutates=True)
async def kill(product_id: Id, reason: Reason = "") -> None:
    """No new tasks, and none enters DOING. Admins only."""
    await update(product_id, status=pb.PRODUCT_STATUS_KILLED, reason=reason)
