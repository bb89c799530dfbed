"""The class weights of a loss, the optimizer, the learning rate schedule, and the running average of the weights."""
from functools import partial

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, MultiStepLR, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel


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


def running_average(model, decay):
    """torch's AveragedModel: the running average of the weights and of batch norm's statistics, as its `module`."""
    def move(averages, values, _):
        step = int(average.n_averaged)  # on the CPU: the GPU need not wait
        if averages[0].is_floating_point():  # batch norm also counts batches
            # The first steps count for more: the random start is soon forgotten.
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + step) / (10 + step)))

    average = AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    return average
