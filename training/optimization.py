"""The class weights of a loss, the optimizer, the learning rate schedule, and the running average of the weights."""
import copy
from functools import partial

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, MultiStepLR, OneCycleLR, StepLR


def class_weights(counts, balance):
    """Counts (K,) of samples or pixels by class -> their weights in the loss (K,), float32, mean 1 by sample. With a
    `balance` of 0 all samples have the same weight, with 1 all classes have."""
    share = counts / counts.sum()
    weights = share**-balance
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


def make_optimizer(model, args, device):
    """Adam, AdamW or SGD. Only matrices and kernels have weight decay; norms and biases have none, as is usual."""
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": args.weight_decay},
              {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
    fused = device.type in ("cpu", "cuda")
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, args.lr, momentum=0.9, nesterov=True, fused=fused)
        for p in model.parameters():  # otherwise it stays unset if the first fp16 step overflows
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimizer
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, args.lr, fused=fused)


def make_schedule(optimizer, args, steps):
    """The learning rate over `steps` optimizer steps."""
    # Up for 15% of the steps, then down to nothing, curved or straight.
    cycle = partial(OneCycleLR, max_lr=args.lr, total_steps=steps + 1, pct_start=0.15, cycle_momentum=False)
    schedules = {"none": partial(ConstantLR, factor=1.0), "step": partial(StepLR, step_size=max(steps // 3, 1)),
                 "multistep": partial(MultiStepLR, milestones=[int(steps * 0.6), int(steps * 0.85)]),
                 "cosine": partial(CosineAnnealingLR, T_max=steps),
                 "onecycle": partial(cycle, anneal_strategy="cos"), "linear": partial(cycle, anneal_strategy="linear")}
    return schedules[args.schedule](optimizer)


class RunningAverage:
    """A copy of a model with the running average of its weights and of batch norm's statistics."""

    def __init__(self, model, decay):
        self.model, self.decay = copy.deepcopy(model), decay
        # Not torch's AveragedModel, which copies its counter to the GPU and waits for that, at every step.
        self.averages, self.values = ([tensor for tensor in each.state_dict().values() if tensor.is_floating_point()]
                                      for each in (self.model, model))

    @torch.no_grad()
    def update(self, step):
        """Move the average towards the model. The first steps count for more: the random start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step)) if step else 0.0
        torch._foreach_lerp_(self.averages, self.values, 1 - decay)
