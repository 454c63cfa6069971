"""Benchmarks: kexue_lib beside its peers, in one process, in one run.

    make bench                                  # all operations of all modules (make bench OPS="rope_halves vq")
    python -m benchmarks --list                 # what there is
    python -m benchmarks crf_log_partition --case 64 --mode forward
    python -m benchmarks --chapter crf --quick

Every file of this folder that registers operations is found by itself. To register one, write ``benchmarks/x.py``::

    from benchmarks.registry import Case, Contestant, Operation, main, register

    def _inputs(n):                      # tensors that require gradients are differentiated
        return lambda device, dtype: (torch.randn(8, n, device=device, dtype=dtype, requires_grad=True),)

    register(
        Operation(
            name="log_sum_exp",                               # unique
            chapter="attention/entropy-invariant-softmax",    # the page it belongs to
            about="log Σ exp over the last axis",             # one line for readers of the table
            tests=("tests/test_x.py",),                       # red tests: no number is shown
            cases=(
                Case("n=1000", _inputs(1000), {"n": 1000}),
                Case("n=1000000", _inputs(1_000_000), {"n": 1_000_000}, devices=("cuda",)),
            ),
            contestants=(
                Contestant("kexue_lib", "ours", lambda case: x.log_sum_exp),
                Contestant("kexue_lib, plain form", "plain", lambda case: x.log_sum_exp_plain,
                           applies=lambda case: case.options["n"] <= 10_000),     # too slow beyond
                Contestant("torch.logsumexp", "peer", lambda case: lambda t: t.logsumexp(-1)),
                Contestant("some package", "peer", _make_theirs, needs="some_package"),
            ),
            tolerance=1e-5,      # relative, in the 2-norm, of each result and each gradient against ours
            note="why ours is slower than the best peer, where it is",
        )
    )

    if __name__ == "__main__":
        sys.exit(main(description=__doc__))      # python -m benchmarks.x runs this file's operations alone

``make(case)`` gives a callable that gets the case's inputs. It may return a tensor, a tuple or list of tensors, or
None; if it returns something else (lists of tags, say), ``read`` turns that into tensors for the comparison, untimed.

* **No backward**: ``Operation(differentiable=False)``, or ``Case(differentiable=False)``, or for a single contestant
  without gradients ``Contestant(differentiable=False)``.
* **Stateful** (an optimizer's step): ``Operation(stateful=True)``. Then ``make(case, *inputs)`` gets its own copies of
  the inputs (leaf tensors), builds the state and returns ``step()``, which is timed and returns the tensors to compare
  (the parameters, for example). Contestants must agree after ``calls`` (3) steps from the same start::

      def _make(case, *tensors):                     # inputs: the parameters, then their gradients
          half = len(tensors) // 2
          for p, g in zip(tensors[:half], tensors[half:]):
              p.grad = g
          optimizer = Tiger(tensors[:half], lr=1e-3)

          def step():
              optimizer.step()
              return tensors[:half]

          return step

* **Only some cases**: ``Contestant(applies=lambda case: …)``; **only some devices**: ``Case(devices=("cuda",))``.
* **A dtype of its own**: inputs that are float64 whatever is asked for; the record says what it was.
* **Another result on purpose** (random samples): ``Contestant(agrees=lambda case: False)``; less work on purpose (a
  lower limit of the cost): the role ``"limit"`` as well, which is shown and never the best peer.
* **Very slow contestants** need nothing: one whose single call is long gets fewer turns (three at least), and its
  interval says so. Use ``applies`` where even three calls would take more than some seconds.
* **Memory** where memory is the claim: ``Operation(memory=True)`` or ``Case(memory=True)``: the peak of what one call
  has allocated, beside the inputs, by PyTorch's allocator.
* **Promised factor over the plain form**: ``factor=lambda case: case.options["n"] / 64`` (or None for "none").
"""
