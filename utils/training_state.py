"""What a training needs to go on as if it had never stopped."""

import random
import signal

import numpy as np
import torch


def random_states():
    """The states of all global random generators, as plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states):
    """Sets the generators to what `random_states` gave."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a question that the training asks between steps.

    A second Ctrl-C interrupts at once. As a context, it puts the former handlers back.

    Attributes:
        signal: the number of the signal that arrived, or None.
    """

    def __init__(self):
        self.signal = None

    def __enter__(self):
        self.former = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class MovingAverage:
    """Exponential moving average of a network's weights: a <- decay a + (1 - decay) w.

    Early in training the decay is (1 + n) / (10 + n) after n steps, if that is smaller. Buffers
    are copied.

    Args:
        model: the network.
        decay: below 1.
    """

    def __init__(self, model, decay):
        self.decay, self.steps = decay, 0
        self.weights = {key: value.clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model):
        """Takes in the weights after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        parameters = dict(model.named_parameters())
        for key, value in model.state_dict().items():
            if key in parameters:
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)

    def state(self):
        return {"weights": self.weights, "steps": self.steps}

    def restore(self, state):
        self.steps = state["steps"]
        for key, value in state["weights"].items():
            self.weights[key].copy_(value)
