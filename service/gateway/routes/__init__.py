"""Every address of the gateway: the native API, OpenAI's and FASHN's shapes, probes and the studio page.

In comes a request, out goes what `work` answered, in the shape of its dialect. Bodies become a `RequestedTryOn` here,
and clients that were just told the queue is full are refused before that.
"""
