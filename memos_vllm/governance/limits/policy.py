"""Which limits a tenant has: those of all tenants, with the tenant's own in their place."""

from __future__ import annotations

from collections.abc import Callable

from memos_vllm.config.limits import LimitsPolicyConfig, TenantLimits

LimitsOf = Callable[[str], TenantLimits]


class LimitsPolicy:
    def __init__(self, config: LimitsPolicyConfig, adapter_bytes: int | None = None) -> None:
        """
        Args:
            adapter_bytes: limit where the section names none.
        """
        values = {name: getattr(config, name) for name in TenantLimits.model_fields}
        if "adapter_bytes" not in config.model_fields_set:
            values["adapter_bytes"] = adapter_bytes
        self._all = TenantLimits(**values)
        self._own = {
            tenant: self._all.model_copy(
                update={name: getattr(own, name) for name in own.model_fields_set}
            )
            for tenant, own in config.tenants.items()
        }

    def limits_of(self, tenant: str) -> TenantLimits:
        """The limits of a tenant. Every check asks here."""
        return self._own.get(tenant, self._all)
