"""Customers, products, prices, webhook endpoints and events: what is stored and looked up."""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from stripefake.call import Call, Operation, changed, listed, one, plain, stored
from stripefake.errors import Refusal, missing
from stripefake.world import Object

_CUSTOMER: Final = ("email", "name", "description", "phone", "address", "shipping", "preferred_locales", "tax_exempt")
_PRODUCT: Final = ("active", "description", "name", "images", "statement_descriptor", "tax_code", "unit_label", "url")


async def create_customer(call: Call) -> Object:
    fields = dict.fromkeys(_CUSTOMER) | call.given(*_CUSTOMER)
    defaults = {"balance": 0, "currency": None, "default_source": None, "delinquent": False, "invoice_prefix": "FAKE"}
    return stored(call, "customer", "cus", {**defaults, **fields}, event="customer.created")


async def update_customer(call: Call) -> Object:
    return changed(call, call.half.get("customer", call.ids[0]), call.given(*_CUSTOMER), event="customer.updated")


async def retrieve_customer(call: Call) -> Object:
    found = call.half.of("customer").get(call.ids[0])
    if found is None:
        raise missing("customer", call.ids[0])
    if found.get("deleted"):
        return {"id": found["id"], "object": "customer", "deleted": True}
    return found


async def delete_customer(call: Call) -> Object:
    found = call.half.get("customer", call.ids[0])
    call.world.emit(call.half, "customer.deleted", found)
    found["deleted"] = True
    return {"id": found["id"], "object": "customer", "deleted": True}


async def create_product(call: Call) -> Object:
    fields = dict.fromkeys(_PRODUCT) | {"active": True, "images": [], "default_price": None, "type": "service"}
    wanted = call.params.get("id")
    if wanted in call.half.of("product"):
        raise Refusal("Product already exists.", code="resource_already_exists", param="id")
    product = stored(call, "product", "prod", {**fields, **call.given(*_PRODUCT), "updated": call.now})
    if wanted:
        del call.half.of("product")[product["id"]]
        product["id"] = wanted
        call.half.of("product")[wanted] = product
    call.world.emit(call.half, "product.created", product)
    return product


async def update_product(call: Call) -> Object:
    fields = {**call.given(*_PRODUCT, "default_price"), "updated": call.now}
    return changed(call, call.half.get("product", call.ids[0]), fields, event="product.updated")


async def create_price(call: Call) -> Object:
    """A price; a metered one needs a meter, as since 2025-03-31."""
    params = call.params
    product = params.get("product")
    if product is None and "product_data" not in params:
        raise Refusal("You must specify either product or product_data.", param="product", code="parameter_missing")
    if product is not None:
        call.half.get("product", product, "product")
    else:
        product = stored(call, "product", "prod", {"name": params["product_data"]["name"], "active": True})["id"]
    recurring = _recurring(call)
    if params.get("billing_scheme") == "tiered":
        if not params.get("tiers") or "tiers_mode" not in params:
            raise Refusal("Tiered prices need tiers and tiers_mode.", param="tiers", code="parameter_missing")
    elif ("unit_amount" in params) == ("unit_amount_decimal" in params):
        raise Refusal("Send either unit_amount or unit_amount_decimal.", param="unit_amount", code="parameter_missing")
    exact = params.get("unit_amount_decimal", params.get("unit_amount"))
    is_whole = exact is not None and Decimal(exact) == Decimal(exact).to_integral_value()
    fields = {
        "active": params.get("active", True),
        "billing_scheme": params.get("billing_scheme", "per_unit"),
        "currency": params["currency"],
        "lookup_key": params.get("lookup_key"),
        "nickname": params.get("nickname"),
        "product": product,
        "recurring": recurring,
        "tiers_mode": params.get("tiers_mode"),
        "transform_quantity": params.get("transform_quantity"),
        "type": "recurring" if recurring else "one_time",
        "unit_amount": int(exact) if exact is not None and is_whole else None,
        "unit_amount_decimal": None if exact is None else format(Decimal(exact), "f"),
    }
    return stored(call, "price", "price", fields, event="price.created")


def _recurring(call: Call) -> Object | None:
    given = call.params.get("recurring")
    if given is None:
        return None
    usage = given.get("usage_type", "licensed")
    meter = given.get("meter")
    if usage == "metered" and meter is None:
        raise Refusal("Metered prices must be backed by a meter.", param="recurring[meter]", code="parameter_missing")
    if meter is not None:
        if usage != "metered":
            raise Refusal("A meter needs usage_type metered.", param="recurring[meter]", code="parameter_invalid")
        call.half.get("billing.meter", meter, "recurring[meter]")
    return {
        "interval": given["interval"],
        "interval_count": given.get("interval_count", 1),
        "meter": meter,
        "trial_period_days": given.get("trial_period_days"),
        "usage_type": usage,
    }


async def update_price(call: Call) -> Object:
    fields = call.given("active", "lookup_key", "nickname")
    if "active" in call.params:
        fields["active"] = call.params["active"]
    return changed(call, call.half.get("price", call.ids[0]), fields, event="price.updated")


async def create_endpoint(call: Call) -> Object:
    """A webhook endpoint; its secret is in this answer and never again."""
    fields: dict[str, Any] = {
        "api_version": call.params.get("api_version"),
        "application": None,
        "description": call.params.get("description"),
        "enabled_events": list(call.params["enabled_events"]),
        "status": "enabled",
        "url": call.params["url"],
    }
    endpoint = stored(call, "webhook_endpoint", "we", fields)
    endpoint["connect"] = call.params.get("connect", False)
    endpoint["secret"] = _secret_of(endpoint)
    return dict(endpoint)


async def update_endpoint(call: Call) -> Object:
    fields = call.given("description", "enabled_events", "url")
    if "disabled" in call.params:
        fields["status"] = "disabled" if call.params["disabled"] else "enabled"
    return _without_secret(changed(call, call.half.get("webhook_endpoint", call.ids[0]), fields))


async def retrieve_endpoint(call: Call) -> Object:
    return _without_secret(call.half.get("webhook_endpoint", call.ids[0]))


async def delete_endpoint(call: Call) -> Object:
    call.half.get("webhook_endpoint", call.ids[0])
    del call.half.of("webhook_endpoint")[call.ids[0]]
    return {"id": call.ids[0], "object": "webhook_endpoint", "deleted": True}


async def list_endpoints(call: Call) -> Object:
    page = await plain("webhook_endpoint", "/v1/webhook_endpoints")(call)
    return {**page, "data": [_without_secret(endpoint) for endpoint in page["data"]]}


def _without_secret(endpoint: Object) -> Object:
    return {name: value for name, value in endpoint.items() if name not in ("secret", "connect")}


async def create_destination(call: Call) -> Object:
    """Where thin events (v2) go: a webhook endpoint of its own kind."""
    params = call.params
    if params["type"] != "webhook_endpoint" or params["event_payload"] != "thin" or not params.get("webhook_endpoint"):
        raise Refusal("Only thin events to a webhook_endpoint are delivered here.", param="type")
    fields = {
        "connect": False,
        "enabled_events": list(params["enabled_events"]),
        "is_thin": True,
        "status": "enabled",
        "url": params["webhook_endpoint"]["url"],
    }
    made = stored(call, "webhook_endpoint", "ed", fields)
    made["secret"] = _secret_of(made)
    return {
        "id": made["id"],
        "object": "v2.core.event_destination",
        "enabled_events": made["enabled_events"],
        "event_payload": "thin",
        "livemode": made["livemode"],
        "name": params["name"],
        "status": "enabled",
        "type": "webhook_endpoint",
        "webhook_endpoint": {"url": made["url"], "signing_secret": made["secret"]},
    }


def _secret_of(endpoint: Object) -> str:
    return "whsec_" + sha256(f"secret of {endpoint['id']}".encode()).hexdigest()[:32]


async def list_events(call: Call) -> Object:
    kinds = call.params.get("types") or ([call.params["type"]] if "type" in call.params else None)
    created = call.params.get("created")
    after = created.get("gte", 0) if isinstance(created, dict) else (created or 0)
    found = (
        event
        for event in call.half.of("event").values()
        if (kinds is None or event["type"] in kinds) and event["created"] >= after
    )
    return listed(call, found, "/v1/events")


async def list_thin(call: Call) -> Object:
    wanted, related = call.params.get("types"), call.params.get("object_id")
    first, limit = int(call.params.get("page", 0)), int(call.params.get("limit", 20))
    found = [
        {name: value for name, value in event.items() if name != "data"}
        for event in reversed(list(call.half.of("v2.core.event").values()))
        if (not wanted or event["type"] in wanted) and related in (None, (event["related_object"] or {}).get("id"))
    ]
    more = f"/v2/core/events?page={first + limit}&limit={limit}" if len(found) > first + limit else None
    return {"data": found[first : first + limit], "next_page_url": more, "previous_page_url": None}


async def retrieve_thin(call: Call) -> Object:
    return call.half.get("v2.core.event", call.ids[0])


OPERATIONS: Final = (
    Operation("POST", "/v1/customers", "CustomerCreateParams", create_customer),
    Operation("GET", "/v1/customers", "CustomerListParams", plain("customer", "/v1/customers", "email")),
    Operation("GET", "/v1/customers/{id}", "CustomerRetrieveParams", retrieve_customer),
    Operation("POST", "/v1/customers/{id}", "CustomerUpdateParams", update_customer),
    Operation("DELETE", "/v1/customers/{id}", "CustomerDeleteParams", delete_customer),
    Operation("POST", "/v1/products", "ProductCreateParams", create_product),
    Operation("GET", "/v1/products", "ProductListParams", plain("product", "/v1/products", "active")),
    Operation("GET", "/v1/products/{id}", "ProductRetrieveParams", one("product")),
    Operation("POST", "/v1/products/{id}", "ProductUpdateParams", update_product),
    Operation("POST", "/v1/prices", "PriceCreateParams", create_price),
    Operation(
        "GET", "/v1/prices", "PriceListParams", plain("price", "/v1/prices", "active", "product", "currency", "type")
    ),
    Operation("GET", "/v1/prices/{id}", "PriceRetrieveParams", one("price")),
    Operation("POST", "/v1/prices/{id}", "PriceUpdateParams", update_price),
    Operation("POST", "/v1/webhook_endpoints", "WebhookEndpointCreateParams", create_endpoint),
    Operation("GET", "/v1/webhook_endpoints", "WebhookEndpointListParams", list_endpoints),
    Operation("GET", "/v1/webhook_endpoints/{id}", "WebhookEndpointRetrieveParams", retrieve_endpoint),
    Operation("POST", "/v1/webhook_endpoints/{id}", "WebhookEndpointUpdateParams", update_endpoint),
    Operation("DELETE", "/v1/webhook_endpoints/{id}", "WebhookEndpointDeleteParams", delete_endpoint),
    Operation("GET", "/v1/events", "EventListParams", list_events),
    Operation("GET", "/v1/events/{id}", "EventRetrieveParams", one("event")),
    Operation("GET", "/v2/core/events", "v2.core.EventListParams", list_thin, frozenset(("page",))),
    Operation("GET", "/v2/core/events/{id}", None, retrieve_thin),
    Operation("POST", "/v2/core/event_destinations", "v2.core.EventDestinationCreateParams", create_destination),
)
