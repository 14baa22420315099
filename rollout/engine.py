"""The inference engine: vLLM, which samples answers to token prompts and takes new weights.

Input: token ids and pictures. Output: sampled token ids, each with its log-probability and the
policy version that sampled it. No text passes here (token-in-token-out).
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from rollout.bucket import AnyBucket
from rollout.bucket_file import BucketFile
from rollout.engine_load import EngineLoad, LoadRecorder
from rollout.engine_log import EngineLog
from rollout.engine_settings import EngineSettings, arguments_of, set_environment
from rollout.pictures import Picture
from rollout.renderer import FORBIDDEN_BIAS

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.logprobs import FlatLogprobs
    from vllm.v1.engine.async_llm import AsyncLLM


class EngineFailure(RuntimeError):
    """The engine does not start, or died; carries vLLM's words."""


class RequestRefused(ValueError):
    """The engine refused one request, or failed at it alone; carries vLLM's words."""


@dataclass(frozen=True)
class Completion:
    """One sampled answer.

    prompt_ids: the prompt as the engine expanded it, the tokens of its pictures included.
    token_ids: sampled tokens, with the end-of-sequence token if one was sampled.
    logprobs: of each sampled token under the distribution that it was sampled from.
    versions: policy version of each sampled token.
    stopped: an end-of-sequence token was sampled; False when the cap was reached.
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    versions: Sequence[int] | NDArray[np.int32]
    stopped: bool


class InferenceEngine:
    """A running vLLM `AsyncLLM`; `await InferenceEngine.start(settings)` makes one.

    New weights arrive by these calls, in this order; the channel's sender makes them::

        init_weight_transfer(info)      once: meet the sender
        start_weight_update()           pause generation; a sleeping engine allocates its weights
        update_weights(message)         once or more: load a part of the weights
        finish_weight_update(version)   generation continues under `version`
        abort_weight_update()           or the update was given up

    `receive` makes the last four for weights that are already in this process.

    lost: why it answers no more, "" while it does.
    """

    def __init__(self, settings: EngineSettings, llm: AsyncLLM, load: LoadRecorder) -> None:
        self.settings = settings
        self.version, self.lost = -1, ""
        self._update: Literal["none", "paused", "begun", "loading"] = "none"
        self._llm = llm
        self._load, self._log = load, EngineLog()
        self._requests = 0
        self._asleep = False
        from vllm.inputs import tokens_input

        self._tokens_input = tokens_input

    @classmethod
    async def start(cls, settings: EngineSettings) -> InferenceEngine:
        """Start the engine's processes and load the folder's weights as version -1.

        Raises:
            EngineFailure: vLLM refuses the model or dies at start.
        """
        set_environment(settings)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        load, log = _load_recorder(), EngineLog()
        arguments: dict[str, Any] = arguments_of(settings)
        try:
            options = AsyncEngineArgs(**arguments)
            if options.enable_chunked_prefill is False:  # vLLM caches other states only in chunks
                attention = options.create_model_config().attn_type
                options.enable_prefix_caching = attention == "decoder"
            llm = AsyncLLM.from_engine_args(options, stat_loggers=cast(Any, [lambda *_: load]))
            await llm.collective_rpc("end_with", args=(os.getpid(),))
        except Exception as error:  # the boundary to vLLM: whatever it raises at start
            cause = log.explain(str(error))
            raise EngineFailure(f"vLLM cannot start on {settings.folder}: {cause}") from error
        engine = cls(settings, llm, load)
        if settings.channel == "object_store":  # the other channels wait for the learner
            await engine.init_weight_transfer({})
        return engine

    async def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None = None,
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        """Sample one answer.

        Args:
            prompt_ids: tokens of the prompt, with one placeholder for each picture.
            max_tokens: cap of the answer.
            temperature: 0 is greedy.
            seed: of this answer's draws; None draws from the engine's shared stream.
            pictures: of the placeholders, in order.

        Raises:
            EngineFailure: the engine died.
            RequestRefused: the engine lives, but gives no answer to this prompt.
        """
        parameters = copy.copy(self._parameters(max_tokens, temperature))
        parameters.seed = seed
        assert not self._asleep, "the engine sleeps until it gets weights"
        self._require_alive()
        prompt: Any = self._tokens_input(list(prompt_ids))
        if pictures:
            prompt = {
                "prompt_token_ids": list(prompt_ids),
                "multi_modal_data": {"image": [p.to_pil() for p in pictures]},
                "multi_modal_uuids": {"image": [p.key for p in pictures]},
            }
        try:
            return await self._request(prompt, parameters)
        except RequestRefused:
            if not pictures:
                raise
            # Caches are cleared in two processes: a picture sent meanwhile is in one of them only.
            return await self._request(prompt, parameters)

    async def _request(self, prompt: Any, parameters: SamplingParams) -> Completion:
        self._requests += 1
        self._load.requests(1)
        try:
            async for output in self._llm.generate(prompt, parameters, f"r{self._requests}"):
                final = output
        except Exception as error:  # the boundary to vLLM
            if self._llm.errored:
                raise EngineFailure(f"vLLM died: {self._log.explain(repr(error))}") from error
            cause = error.__cause__ or error  # what vLLM did not expect is wrapped without words
            raise RequestRefused(f"vLLM refused a request: {cause!r}") from error
        finally:
            self._load.requests(-1)
        self._require_alive()  # sequences of a lost engine end without an answer
        reason = final.outputs[0].finish_reason
        if reason not in ("stop", "length"):  # vLLM raises nothing, as for a lost picture
            raise RequestRefused(f"vLLM gave no answer: the request ended with {reason!r}")
        return self._completion(final)

    @cache  # noqa: B019 - an engine lives as long as its process
    def _parameters(self, max_tokens: int, temperature: float) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=list(self.settings.stop_ids),
            logit_bias={i: FORBIDDEN_BIAS for i in self.settings.forbidden} or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # they are never changed: vLLM need not copy them in depth
        )

    def _completion(self, output: RequestOutput) -> Completion:
        answer = output.outputs[0]
        logprobs = cast("FlatLogprobs", answer.logprobs)  # as `_parameters` asks for them
        assert output.prompt_token_ids is not None
        versions = np.full(len(answer.token_ids), self.version, np.int32)
        for span in answer.weight_versions or ():
            if span.version.isdigit():
                versions[span.start : span.end] = int(span.version)
        return Completion(
            prompt_ids=output.prompt_token_ids,
            token_ids=answer.token_ids,
            logprobs=logprobs.logprobs[: len(answer.token_ids)],
            versions=versions,
            stopped=answer.finish_reason == "stop",
        )

    async def receive(self, version: int, buckets: Sequence[AnyBucket]) -> float:
        """Replace weights; sequences in flight pause and continue under the new version.

        Of buckets that pass through shared memory two are written before the pause.

        Args:
            version: policy version of the new weights.
            buckets: of what the engine does not have yet, in the order of the learner's gathering.

        Returns:
            Seconds of the pause.

        Raises:
            OSError: shared memory has no room; the engine goes on with the weights that it has.
            EngineFailure: the update failed and was given up; see `abort_weight_update`.
        """
        with BucketFile(buckets) as file:
            for index in range(len(buckets[:2])):
                await asyncio.to_thread(file.write, index)
            begin = time.monotonic()
            try:
                await self.start_weight_update()
                for index in range(len(buckets)):
                    loading = self.update_weights(file.message(index))
                    if 0 < index < len(buckets) - 1:
                        writing = asyncio.to_thread(file.write, index + 1)
                        await asyncio.gather(loading, writing)
                    else:
                        await loading
                await self.finish_weight_update(version)
            except BaseException as error:
                await self.abort_weight_update()
                if not isinstance(error, Exception):  # the call was cancelled
                    raise
                what = f"weights of version {version} did not load"
                raise EngineFailure(f"{what}: {self._log.explain(str(error))}") from error
        return time.monotonic() - begin

    async def init_weight_transfer(self, info: dict[str, object]) -> None:
        """Join the channel; `info` is vLLM's init info, from the sender."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=info))

    async def start_weight_update(self) -> None:
        """Pause generation, or give a sleeping engine memory for its weights, not its KV cache.

        The pause clears the prefix and encoder caches: they hold values of the old weights
        (weights-are-proven).
        """
        await self.abort_weight_update()  # of a sender that is no more
        self._require_alive()
        self._update = "paused"
        if self._asleep:  # the learner holds memory until the update ends
            await self._llm.wake_up(tags=["weights"])
        else:
            self._load.pause()
            await self._llm.pause_generation(mode="keep", clear_cache=True)
        self._update = "begun"
        self._load.load()
        await self._llm.start_weight_update()

    async def update_weights(self, message: dict[str, object]) -> None:
        """Load the part of the weights that the channel's message describes."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._update = "loading"
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=message))

    async def finish_weight_update(self, version: int) -> None:
        """All weights are those of `version`: sequences continue, a sleeping engine is awake."""
        await self._llm.finish_weight_update(str(version))
        self.version, self._update = version, "paused"
        if self._asleep:
            await self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        else:
            await self._llm.resume_generation()
        self._load.resume()
        self._update = "none"

    async def abort_weight_update(self) -> None:
        """Give up an update that will not be finished; without one nothing happens.

        Before any weights came, sequences continue under the version that they had. Afterwards the
        engine holds parts of two versions: it is lost, and its sequences end with EngineFailure.
        """
        update, self._update = self._update, "none"
        if update == "none" or self.lost:
            return
        try:
            if update == "loading" or self._asleep:
                self.lost = "a weight update was given up in the middle"
                await self._llm.pause_generation(mode="abort")
                return
            if update == "begun":
                await self._llm.finish_weight_update()
            await self._llm.resume_generation()
            self._load.resume()
        except Exception as error:  # noqa: BLE001 - the boundary to vLLM: it cannot even give up
            cause = self._log.explain(str(error))
            self.lost = self.lost or f"a weight update could not be given up: {cause}"

    def _require_alive(self) -> None:
        if self.lost:
            raise EngineFailure(f"the engine is lost: {self.lost}")

    async def sleep(self) -> None:
        """Free the GPU's memory, weights and KV cache; the next weight update wakes the engine."""
        if not self._asleep:
            await self._llm.sleep(level=2, mode="wait")
            self._asleep = True
            self._load.sleep()

    def death(self) -> str | None:
        """Why the engine's processes are gone; None while they are there."""
        return self._log.explain(repr(self._llm.dead_error)) if self._llm.errored else None

    async def probe(self) -> None:
        """A round trip through the loop that samples."""
        await self._llm.is_paused()

    def total_load(self) -> EngineLoad:
        """The load since its start, from vLLM's scheduler."""
        return self._load.total()

    async def shutdown(self) -> None:
        """End the engine's processes."""
        await asyncio.to_thread(self._llm.shutdown)


def _load_recorder() -> LoadRecorder:
    """A recorder of the class that vLLM takes."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Recorder(LoadRecorder, StatLoggerBase):
        pass

    return Recorder()
