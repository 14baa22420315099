"""A worker extension that can leave out the last part of a weight update, and mend itself."""

from rollout.weight_receiver import ObjectStoreReceiver, WeightReceiver

_WHOLE = ObjectStoreReceiver.refresh_packed_linears


class Breakable(WeightReceiver):
    def leave_out_refresh(self):
        ObjectStoreReceiver.refresh_packed_linears = lambda channel: None

    def mend_refresh(self):
        ObjectStoreReceiver.refresh_packed_linears = _WHOLE
