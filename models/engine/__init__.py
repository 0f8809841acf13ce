"""What runs and trains the detectors that `models.stages` describes, many times faster.

One idea: memory is slow, so a piece of an image goes through as many layers as it can while it is
in a core's cache. Where a layer looks at its neighbours, or a norm at all, pieces wait.

To read it, evaluation first:

    base            what an engine is, and which networks it takes
    tape, workers   what a thread works with: recorded calls, memory used again, tasks
    centring        the first convolution, with little rounding
    differences     temporal-difference kernels with fewer products
    heads           the end of a level and of a detector
    merge           the levels upsampled and added, by `interpolation`
    tiles/          levels that look at no neighbour: tiles of pixels, each through a whole level
        network         how an image is cut into tiles, and which layers run over which
        temporal        as matrix products over channels-first tiles, in float32
        packed          as oneDNN's layers over channels-last tiles, in bfloat16
    rows/           kernels that look at neighbours: rows, from cut to cut
        convolutions    those of rows
        segments        what is between two cuts
        blocks          those of residual blocks
        network         a detector as a chain of them
    cuda/           a GPU: whole maps, a kernel of `cuda.kernels` for each half of a block
    budget, precision, onednn    sizes of memory; number types; what torch does not document

then training, in which a piece goes from one BatchNorm to the next:

    training.maps, few_channels   how maps are cut, and the products over their pieces
    training.moments              a BatchNorm known before its input is computed again
    training.block, probe, ends   the parts of a detector, with their gradients
    training.network              the whole, in the network's place
"""
