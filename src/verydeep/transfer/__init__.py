"""Appendix B: transfer. A net describes the photographs of another data set, and a linear classifier learns them.

`transfer` does all of it. `described` and `measured` are its halves: descriptors are computed once and stored, and
any number of splits, aggregations and numbers of training images can be measured on them.
"""

from verydeep.transfer.data import TransferData as TransferData
from verydeep.transfer.describing import Described as Described
from verydeep.transfer.opening import open_transfer_data as open_transfer_data
from verydeep.transfer.procedure import SplitResult as SplitResult
from verydeep.transfer.procedure import TransferResult as TransferResult
from verydeep.transfer.procedure import described as described
from verydeep.transfer.procedure import measured as measured
from verydeep.transfer.procedure import save_classifier as save_classifier
from verydeep.transfer.procedure import transfer as transfer
