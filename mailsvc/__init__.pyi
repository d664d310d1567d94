from mailsvc.relay.outcome import Kind as Kind
from mailsvc.relay.outcome import Outcome as Outcome
from mailsvc.sending.api import NotDelivered as NotDelivered
from mailsvc.sending.api import Sent as Sent
from mailsvc.sending.api import send as send

__version__: str
