"""The cascade (Miles and Mikolajczyk 2020): all networks are trained together while channels are chosen; then the
student is trained further by one larger network after another.

The second stage begins when the masks are final and the channels are removed. The first guide is the smallest; as soon
as the student has a higher accuracy than the network that teaches it, the next larger one replaces it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.methods.cascade.joint_lesson import Member, Together
from compressor.methods.start import Start, proved
from compressor.methods.task import Task, Training, taught
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of
from compressor.pruning.widths.plan import Plan
from compressor.recipe.method_table import TOGETHER
from compressor.training import Arithmetic, Guide, accuracy, follow
from compressor.training.refusals import check_sense


def cascade(task: Task) -> tuple[Training, ...]:
    """Run both stages; the first alone where the schedule leaves no epochs for the second."""
    asked = task.distilling
    arithmetic = Arithmetic.on(task.device, asked.schedule.precision)
    check_sense(task.data, asked.schedule, taught=True)
    lesson = Together(
        task.teacher,
        task.guide,
        task.graph,
        task.scores,
        task.budget,
        task.path,
        asked,
        task.data,
        arithmetic,
    )
    trained = follow(
        lesson,
        task.data,
        asked.in_cascade,
        arithmetic,
        seed=task.seed,
        checkpoints=task.checkpoints(TOGETHER),
        progress=partial(task.progress, TOGETHER),
    )
    student, *larger = lesson.members
    same = student.plan.slices == task.student.plan.slices
    plan = with_costs(task.graph, replace(student.plan, costs=task.student.plan.costs))
    stage = replace(task.student, plan=plan, missed=task.student.missed if same else None)
    whole = lesson.at_full_width(student)
    checks = proved(whole, copy.deepcopy(trained.network).cpu(), student.plan, task.data)
    start = Start(trained.network, checks)
    first = Training(replace(stage, name=TOGETHER), larger[0].stage.name, trained, start)
    if asked.after_cascade is None:
        return (replace(first, stage=stage),)
    guides = [*(_guide(member, task) for member in larger), task.guide]
    after = taught(task, stage, start, asked.after_cascade, tuple(guides))
    told = [epoch.teacher for epoch in after.history if epoch.teacher]
    return first, Training(stage, " → ".join(dict.fromkeys(told)), after, Start(trained.network))


def _guide(member: Member, task: Task) -> Guide:
    network = copy.deepcopy(member.network).eval()
    right = accuracy(network, task.data.test, device=task.device)
    return Guide(member.stage.name, network, right)


def with_costs(graph: ChannelGraph, plan: Plan) -> Plan:
    """The plan with its counted costs, before and after."""
    before = np.array([group.units for group in graph.groups], dtype=np.int64)
    after = np.array([plan.widths[group.name][1] for group in graph.groups], dtype=np.int64)
    counted = {name: (cost.of(before), cost.of(after)) for name, cost in costs_of(graph).items()}
    return replace(plan, costs={**plan.costs, **counted})
