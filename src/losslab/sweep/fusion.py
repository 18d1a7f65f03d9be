"""The networks of K members as one network, module by module.

The forward of one member is traced by torch.fx, and each node is translated: into an operation over all members at once
that does for each what the node does for one. The idea is Wang et al., Horizontally Fused Training Array, MLSys 2021
(arXiv:2102.02344). Compared with `torch.func.vmap`, products have the stacked weights on their left side and
convolutions are channels last, which a CPU computes several times faster; and there are fewer operations to launch.
"""

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from losslab.sweep.forward_graph import IN_PLACE, NoTranslationError, called, forward_graph, in_mode

COMMON = "common"
"""Layout: one member's, as alone, the same for all members: (B, C, H, W) or (B, F)."""
ROWS = "rows"
"""Layout: (K, B, C, H, W) or (K, B, F)."""
COLUMNS = "columns"
"""Layout of flat values: (K, F, B); what a product with the weights on its left side takes and returns."""
CHANNELS = "channels"
"""Layout of maps: (B, K * C, H, W), channels last; what a grouped convolution takes and returns."""

ACTIVATIONS = {
    nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU,
    nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh,
}  # fmt: skip
POOLING = {nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d}
ELEMENTWISE = {
    F.celu, F.elu, F.gelu, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid, F.mish, F.relu, F.relu6,
    F.selu, F.sigmoid, F.silu, F.softplus, F.softsign, F.tanh, torch.relu, torch.sigmoid, torch.tanh, operator.neg,
}  # fmt: skip
FUNCTIONAL_POOLING = {F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d}
METHODS = {"relu": torch.relu, "relu_": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
BINARY: dict[Any, Any] = IN_PLACE | {f: f for f in (*IN_PLACE.values(), torch.add, torch.sub, torch.mul, torch.div)}

Function = Callable[..., Tensor]
"""Called with the stacked state and the values of its sources."""


class FusedNetwork:
    """K networks of one structure as one.

    Running statistics are updated in place, as each module does alone. Dropout draws all masks from torch's stream.

    Args:
        member: one of them, a Classifier; its forward is traced, in training and in evaluation mode, and its modules'
            settings are read. It is left as it was.
        members: K.

    Raises:
        NoTranslationError: the forward cannot be traced, or something in it has no translation.
    """

    def __init__(self, member: nn.Module, members: int) -> None:
        self._image_dims = len(member.image_shape) + 1  # type: ignore[arg-type]
        if self._image_dims != 4:
            raise NoTranslationError(f"image_shape {member.image_shape} has no translation")
        self._programs: dict[tuple[bool, bool], _Program] = {}
        for training in (True, False):
            with in_mode(member, training):
                graph = forward_graph(member)
                for own in (True, False):
                    program = _Program(member, members, graph, own)
                    program.check_shapes()
                    self._programs[training, own] = program

    def __call__(self, state: Mapping[str, Tensor], images: Tensor, training: bool) -> Tensor:
        """Return logits (K, B, C).

        Args:
            state: parameters and buffers by the member's names, stacked, (K, ...). Those whose first two dimensions
                are one in memory are not copied; running statistics must be so.
            images: each member's own (K, B, *image_shape), or common ones (B, *image_shape).
            training: whether the networks are in training mode.
        """
        return self._programs[training, images.ndim > self._image_dims].run(state, images)


class _Form(NamedTuple):
    layout: str
    flat: bool  # a member's value has the shape (B, F), else (B, C, H, W)


class _Program:
    """The steps that compute a traced forward for K members. Values are numbered: 0 the images, n that of step n."""

    def __init__(self, member: nn.Module, members: int, graph: fx.Graph, own: bool) -> None:
        self.member, self.members = member, members
        named = (*member.named_parameters(), *member.named_buffers())
        self._names = {id(tensor): name for name, tensor in named}  # of a shared tensor the first name, as in the state
        self._read: dict[str, Tensor] = {}
        self._forms = [_Form(ROWS if own else COMMON, flat=False)]
        self._steps: list[tuple[Function, tuple[int, ...]]] = []
        self._converted: dict[tuple[int, str], int] = {}
        self._values: dict[fx.Node, int] = {}
        for node in graph.nodes:
            self._translate(node)
        last = {source: number for number, (_, sources) in enumerate(self._steps) for source in sources}
        last.pop(self._result, None)
        self._done: list[list[int]] = [[] for _ in self._steps]  # values that no later step reads
        for source, number in last.items():
            self._done[number].append(source)

    def run(self, state: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the logits (K, B, C)."""
        values: list[Any] = [images]
        for (function, sources), done in zip(self._steps, self._done, strict=True):
            values.append(function(state, *[values[source] for source in sources]))
            for number in done:
                values[number] = None
        return values[self._result]

    def check_shapes(self) -> None:
        """Run without data; a step raises NoTranslationError where shapes decide."""
        own = (self.members,) if self._forms[0].layout == ROWS else ()
        shape: Any = self.member.image_shape
        dtype = next((tensor.dtype for tensor in self._read.values() if tensor.is_floating_point()), None)
        try:
            with torch.no_grad(), torch.device("meta"):
                state = {n: torch.empty(self.members, *t.shape, dtype=t.dtype) for n, t in self._read.items()}
                self.run(state, torch.empty(*own, 2, *shape, dtype=dtype))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise NoTranslationError(f"{type(self.member).__name__} cannot be computed as one: {reason}") from error

    def _add(self, layout: str, flat: bool, function: Function, *sources: int) -> int:
        self._steps.append((function, sources))
        self._forms.append(_Form(layout, flat))
        return len(self._steps)

    def _alike(self, function: Callable[[Tensor], Tensor], x: int) -> int:
        return self._add(*self._forms[x], lambda _, value: function(value), x)

    def _to(self, x: int, layout: str) -> int:
        """Return the number of the value in another layout."""
        now, flat = self._forms[x]
        if now == layout:
            return x
        if (x, layout) not in self._converted:
            function = _conversion(now, layout, flat, self.members)
            self._converted[x, layout] = self._add(layout, flat, lambda _, value: function(value), x)
        return self._converted[x, layout]

    def _name(self, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        name = self._names[id(tensor)]
        self._read[name] = tensor
        return name

    def _input(self, node: fx.Node) -> int:
        """Return the value of the one node that this node is computed from, its first argument."""
        if not node.args or node.all_input_nodes != [node.args[0]]:
            raise NoTranslationError(f"{called(node)} of more than one value has no translation")
        return self._value(node.args[0])

    def _value(self, node: Any) -> int:
        if not isinstance(node, fx.Node) or node not in self._values:
            raise NoTranslationError(f"the use of {called(node)} as a value has no translation")
        return self._values[node]

    def _translate(self, node: fx.Node) -> None:
        if node.op == "placeholder" and not self._values:
            self._values[node] = 0
        elif node.op == "get_attr":
            raise NoTranslationError(f"{node.target}, read outside of its module, has no translation")
        elif node.op == "call_module":
            self._values[node] = self._module(node, self.member.get_submodule(str(node.target)))
        elif node.op == "output":
            x = self._value(node.args[0])
            if not self._forms[x].flat:
                raise NoTranslationError("an output other than logits (B, C) has no translation")
            self._result = self._to(x, ROWS)
        elif node.op != "placeholder" or node.users:
            self._values[node] = self._function(node)

    def _module(self, node: fx.Node, module: Any) -> int:
        kind, x = type(module), self._input(node)
        if len(node.args) > 1 or node.kwargs:
            raise NoTranslationError(f"{kind.__name__} with more arguments has no translation")
        flat = self._forms[x].flat
        if getattr(module, "inplace", False):
            module = copy.copy(module)  # computes the same out of place; it has no tensors
            module.inplace = False
        if kind is nn.Identity:
            return x
        if kind in ACTIVATIONS:
            return self._alike(module.forward, x)
        if kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
            return self._flatten(x)
        if kind is nn.Dropout or (kind is nn.Dropout2d and not flat):
            return self._dropout(module.forward, x) if module.training and module.p else x
        if kind is nn.Linear and flat:
            return self._linear(module, x)
        if kind is nn.BatchNorm1d and flat:
            return self._batch_norm(module, self._to(x, COLUMNS))
        if kind is nn.BatchNorm2d and not flat:
            return self._batch_norm(module, self._to(x, CHANNELS))
        if kind is nn.Conv2d and not flat:
            return self._convolution(module, x)
        if kind in POOLING and not flat and not getattr(module, "return_indices", False):
            return self._pooling(module.forward, x)
        if kind in (nn.ZeroPad2d, nn.ConstantPad2d) and not flat:
            return self._alike(module.forward, x)
        raise NoTranslationError(f"{kind.__name__} has no translation")

    def _function(self, node: fx.Node) -> int:
        target: Any = node.target
        kwargs: dict[str, Any] = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        if target in BINARY and len(node.args) == 2 and not kwargs:
            return self._binary(node, BINARY[target])
        rest: Any = node.args[1:]
        x = self._input(node)
        flat = self._forms[x].flat
        if node.op == "call_method" and target in METHODS:
            target = METHODS[target]
        if target in (torch.flatten, "flatten") and (rest, kwargs) in (((1,), {}), ((), {"start_dim": 1})):
            return self._flatten(x)

        def function(value: Tensor) -> Tensor:
            return target(value, *rest, **kwargs)

        if target in ELEMENTWISE:
            return self._alike(function, x)
        if target in FUNCTIONAL_POOLING and not flat and not kwargs.get("return_indices"):
            return self._pooling(function, x)
        if target is F.dropout or (target is F.dropout2d and not flat):
            return self._dropout(function, x) if kwargs["training"] and kwargs["p"] else x
        raise NoTranslationError(f"{called(node)} has no translation")

    def _binary(self, node: fx.Node, function: Callable[[Any, Any], Tensor]) -> int:
        """Of two values of all members, or of one and a number."""
        a, b = node.args
        in_place = node.target in IN_PLACE

        def compute(a: Any, b: Any) -> Tensor:
            return function(a, b).to(a.dtype) if in_place else function(a, b)

        if isinstance(b, int | float):
            return self._alike(lambda value: compute(value, b), self._value(a))
        if isinstance(a, int | float):
            return self._alike(lambda value: function(a, value), self._value(b))
        x, y = self._value(a), self._value(b)
        layout = self._forms[y if self._forms[x].layout == COMMON else x].layout
        differ = NoTranslationError(f"{called(node)} of values of different shapes has no translation")
        if self._forms[x].flat != self._forms[y].flat:
            raise differ

        def checked(_: Any, a: Tensor, b: Tensor) -> Tensor:
            if a.shape != b.shape:
                raise differ
            return compute(a, b)

        return self._add(layout, self._forms[x].flat, checked, self._to(x, layout), self._to(y, layout))

    def _flatten(self, x: int) -> int:
        x = self._to(x, ROWS) if self._forms[x].layout == CHANNELS else x
        return x if self._forms[x].flat else self._add(self._forms[x].layout, True, lambda _, v: v.flatten(-3), x)

    def _dropout(self, function: Callable[[Tensor], Tensor], x: int) -> int:
        """Of (B, K * C, H, W) whole maps are dropped as they are of a member alone."""
        layout, flat = self._forms[x]
        return self._alike(function, self._to(x, COLUMNS if layout == COLUMNS else ROWS if flat else CHANNELS))

    def _pooling(self, function: Callable[[Tensor], Tensor], x: int) -> int:
        return self._alike(function, x if self._forms[x].layout == COMMON else self._to(x, CHANNELS))

    def _linear(self, module: nn.Linear, x: int) -> int:
        weight, bias, members = self._name(module.weight), self._name(module.bias), self.members

        def of_common(state: Any, x: Tensor) -> Tensor:  # one product: (K * O, I) with (I, B)
            stacked = state[weight].flatten(0, 1)
            product = stacked @ x.mT if bias is None else torch.addmm(state[bias].reshape(-1, 1), stacked, x.mT)
            return product.unflatten(0, (members, -1))

        def of_each(state: Any, x: Tensor) -> Tensor:
            # The gradient of weights on the left is (K, O, B) with (K, B, I), a quarter of the time of its transpose.
            return state[weight] @ x if bias is None else torch.baddbmm(state[bias].unsqueeze(2), state[weight], x)

        if self._forms[x].layout == COMMON:
            return self._add(COLUMNS, True, of_common, x)
        return self._add(COLUMNS, True, of_each, self._to(x, COLUMNS))

    def _convolution(self, module: nn.Conv2d, x: int) -> int:
        if module.padding_mode != "zeros":
            raise NoTranslationError(f"Conv2d with padding_mode {module.padding_mode} has no translation")
        weight, bias = self._name(module.weight), self._name(module.bias)
        common = self._forms[x].layout == COMMON and module.groups == 1  # each member's channels read all of them
        x = x if common else self._to(x, CHANNELS)
        groups = 1 if common else self.members * module.groups
        stride, padding, dilation = module.stride, module.padding, module.dilation

        def convolve(state: Any, x: Tensor) -> Tensor:
            kernels = state[weight].flatten(0, 1)  # (K * O, I, h, w)
            shifts = None if bias is None else state[bias].flatten()
            return F.conv2d(x, kernels, shifts, stride, padding, dilation, groups)

        return self._add(CHANNELS, False, convolve, x)

    def _batch_norm(self, module: nn.BatchNorm1d | nn.BatchNorm2d, x: int) -> int:
        """Normalise each channel of each member by itself: as K * C channels."""
        weight, bias = self._name(module.weight), self._name(module.bias)
        by_batch = module.training or (module.running_mean is None and module.running_var is None)
        tracks = module.training and module.track_running_stats
        reads = tracks or not module.training
        mean = self._name(module.running_mean if reads else None)
        var = self._name(module.running_var if reads else None)
        count = self._name(module.num_batches_tracked if tracks else None)
        momentum, eps = module.momentum or 0.0, module.eps
        averages = module.momentum is None and mean is not None and count is not None

        def normalise(state: Any, x: Tensor) -> Tensor:
            if count is not None:
                state[count].add_(1)
            scale, shift = (None if name is None else state[name].flatten() for name in (weight, bias))
            running = [None if name is None else state[name].view(-1) for name in (mean, var)]
            values = x.reshape(1, -1, x.shape[2]) if x.ndim == 3 else x  # (1, K * F, B) of columns
            if not averages:
                return F.batch_norm(values, running[0], running[1], scale, shift, by_batch, momentum, eps).view_as(x)
            # The mean over all batches, by each member's own count, which is not read on the host.
            found = [torch.zeros_like(state[name]) for name in (mean, var)]  # (K, C) each, filled with this batch's
            normed = F.batch_norm(values, found[0].view(-1), found[1].view(-1), scale, shift, True, 1.0, eps)
            share = state[count].double().reciprocal().unsqueeze(1)
            for name, of_batch in zip((mean, var), found, strict=True):
                state[name].lerp_(of_batch, share.to(of_batch.dtype))
            return normed.view_as(x)

        return self._add(*self._forms[x], normalise, x)


def _conversion(now: str, then: str, flat: bool, members: int) -> Callable[[Tensor], Tensor]:
    if flat:
        return lambda x: (x if (now, then) == (COMMON, ROWS) else x.mT).expand(members, -1, -1)
    if then == ROWS:
        shape = (members, -1, -1, -1, -1)
        return lambda x: x.expand(shape) if now == COMMON else x.unflatten(1, (members, -1)).transpose(0, 1)

    def channels(x: Tensor) -> Tensor:
        own = x if now == ROWS else x.expand(members, -1, -1, -1, -1)
        return own.permute(1, 3, 4, 0, 2).flatten(3).contiguous().permute(0, 3, 1, 2)  # one copy: (B, H, W, K * C)

    return channels
