"""The RPCs about products."""

from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_governance import asks, names, products, wire
from nanoclaw_governance.act import Act
from nanoclaw_governance.servicing import Servicing
from nanoclaw_rpc import page
from nanoclaw_store import Tx


class ProductRpcs(Servicing):
    """Products: created, changed, read."""

    async def CreateProduct(self, request: pb.CreateProductRequest, context: Any) -> pb.CreateProductResponse:
        def create(tx: Tx, act: Act) -> pb.CreateProductResponse:
            risk = names.RISKS.name("risk", request.risk)
            product = products.create(tx, act, request.name, request.description, risk, request.id)
            return pb.CreateProductResponse(product=wire.product_message(product))

        return await self._write(request, create)

    async def UpdateProduct(self, request: pb.UpdateProductRequest, context: Any) -> pb.UpdateProductResponse:
        wanted = asks.product_change_of(request)

        def change(tx: Tx, act: Act) -> pb.UpdateProductResponse:
            product, changed = products.change(tx, act, request.product_id, wanted, request.reason)
            return pb.UpdateProductResponse(product=wire.product_message(product), changed=changed)

        return await self._write(request, change)

    async def GetProduct(self, request: pb.GetProductRequest, context: Any) -> pb.GetProductResponse:
        product = self._database.read(lambda tx: products.find(tx, request.product_id))
        return pb.GetProductResponse(product=wire.product_message(product))

    async def ListProducts(self, request: pb.ListProductsRequest, context: Any) -> pb.ListProductsResponse:
        (start,), most = page.after(request, ""), page.size(request)
        status = names.PRODUCT_STATUSES.name("status", request.status)
        found = self._database.read(lambda tx: products.page(tx, start, status, most + 1))
        shown, token = page.cut(found, most, wire.product_message, lambda product: (product.id,))
        return pb.ListProductsResponse(products=shown, next_page_token=token)
