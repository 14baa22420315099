"""A worker extension by which tests break a weight update, and mend it again."""

import threading

import rollout.weight_receiver as receiver
from rollout.weight_receiver import ObjectStoreReceiver, WeightReceiver

_WHOLE, _MAY_COPY = ObjectStoreReceiver.refresh_packed_linears, receiver._may_copy


class Breakable(WeightReceiver):
    def threads(self):
        return [thread.name for thread in threading.enumerate()]

    def leave_out_refresh(self):
        ObjectStoreReceiver.refresh_packed_linears = lambda channel: None

    def mend_refresh(self):
        ObjectStoreReceiver.refresh_packed_linears = _WHOLE

    def let_layers_be_copied(self, may):
        """Forget the plan; the next update makes one, or none if layers may not be copied."""
        receiver._may_copy = _MAY_COPY if may else lambda module: False
        self.weight_transfer_engine.plan = None

    def has_plan(self):
        return self.weight_transfer_engine.plan is not None
