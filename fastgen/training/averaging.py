"""An exponential moving average of the weights. Evaluations use it in place of the weights."""

import copy

import torch


class WeightAverage:
    """TensorFlow's ExponentialMovingAverage with num_updates: average = d average + (1 - d) weight after each step,
    with d = min(decay, (1 + n) / (10 + n)) after n steps, so that the first weights are forgotten soon.

    Floating-point buffers (batch norm's statistics) are averaged too, as TensorFlow's Inception does.
    torch.optim.swa_utils.AveragedModel waits for the device in every update, because it counts them there.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, network: torch.nn.Module) -> None:
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        averages, values = _state(self.network), _state(network)
        floating = [i for i, value in enumerate(values) if value.is_floating_point()]
        others = [i for i, value in enumerate(values) if not value.is_floating_point()]
        torch._foreach_lerp_([averages[i] for i in floating], [values[i] for i in floating], 1 - decay)
        if others:
            torch._foreach_copy_([averages[i] for i in others], [values[i] for i in others])

    def state_dict(self) -> dict[str, object]:
        return {"updates": self._updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict) -> None:  # type: ignore[type-arg]
        self._updates = state["updates"]
        self.network.load_state_dict(state["network"])


def _state(network: torch.nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
