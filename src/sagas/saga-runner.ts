import { randomUUID } from 'node:crypto';
import { isOutage } from '#src/database/database-errors.ts';
import {
  CommandOverloaded,
  CommandUncertain,
  StoreUnavailable,
} from '#src/event-store/event-store.ts';
import type { EventMetadata, SagaWorkRow, StreamAppend } from '#src/event-store/event-store.ts';
import { createWorker, fullJitterMs } from '#src/workers/worker.ts';
import type { SagaDefinition } from './saga-definition.ts';
import { runSaga } from './saga-run.ts';
import type { SagaOwner, SagaRunDependencies } from './saga-run.ts';
import { createClaimSagas, giveBack, requireDefinitions, setAside } from './saga-store.ts';
import type { SagaClaim } from './saga-store.ts';
import { toNewSagaEvent } from './saga.ts';

const CLAIM_MAX = 50;
/** How many runs of a saga may fail in a row before it waits for an operator. */
const FAILED_RUNS_MAX = 20;
/** The epoch of a new saga. Every claim starts a new one. */
const FIRST_EPOCH = 1;

export type SagaRunnerDependencies = SagaRunDependencies &
  Readonly<{
    /** Every version that may be live. New sagas take the last. */
    definitions: readonly SagaDefinition[];
    /** While this process may not write, it takes up no saga: another process could. */
    isPaused?: () => boolean;
  }>;

export type SagaStart = Readonly<{
  sagaId: string;
  subjectId: string;
  metadata: EventMetadata;
  at: string;
}>;

/** What the unit that starts a saga must contain. */
export type BegunSaga = Readonly<{ append: StreamAppend; work: SagaWorkRow }>;

/** Works on sagas: those that this process starts, and those that are due and not held by anybody. */
export type SagaRunner = Readonly<{
  /** @throws SagaDefinitionMissing if a live saga has none of the definitions */
  start(): Promise<void>;
  /** If this process has room, it holds the saga from the commit on. If not, a claim takes it up. */
  begin(start: SagaStart): BegunSaga;
  /** Must be called for every unit that was committed, so that sagas that are due start at once. */
  committed(rows: readonly SagaWorkRow[]): void;
  /** Stops claiming and waits a while for calls under way. Sagas whose calls do not end keep their lease. */
  stop(): Promise<void>;
}>;

export function createSagaRunner(dependencies: SagaRunnerDependencies): SagaRunner {
  const { pool, definitions, clock, limits, log, isPaused = () => false } = dependencies;
  const owner = randomUUID();
  const leaseMs = 2 * limits.callTimeoutMs + limits.leaseMarginMs;
  const [stopping, cutting] = [new AbortController(), new AbortController()];
  const holder = { owner, leaseMs, stopping: stopping.signal, cutting: cutting.signal };
  const claim = createClaimSagas(pool, { owner, leaseMs, definitions });
  const running = new Set<Promise<void>>();
  let hasBacklog = false;

  const take = (claimed: SagaClaim, heldFrom: number) => {
    const work = runGuarded(dependencies, holder, claimed, heldFrom).finally(() => {
      running.delete(work);
      if (hasBacklog) worker.wake();
    });
    running.add(work);
  };

  const worker = createWorker({
    name: 'sagas',
    idleMs: limits.pollMs,
    errorBackoff: { baseMs: limits.pollMs, maxMs: 10 * limits.pollMs },
    log,
    tick: async () => {
      const room = isPaused() ? 0 : Math.min(limits.concurrency - running.size, CLAIM_MAX);
      hasBacklog = room <= 0;
      if (hasBacklog) return 0;
      await clock.refresh();
      const heldFrom = performance.now();
      const claims = await claim(room);
      hasBacklog = claims.length === room;
      for (const claimed of claims) take(claimed, heldFrom);
      return claims.length;
    },
  });

  return {
    start: async () => {
      await Promise.all([requireDefinitions(pool, definitions), clock.refresh()]);
      if (definitions.length > 0) worker.start();
    },
    begin: (start) => {
      // Sagas that already wait come first: a new saga joins them.
      const hasRoom = !hasBacklog && running.size < limits.concurrency && !stopping.signal.aborted;
      return beginSaga(definitions.at(-1), start, hasRoom ? { owner, leaseMs } : null);
    },
    committed: (rows) => {
      for (const row of rows) {
        if (row.op === 'begin' && row.owner === owner) take(firstClaim(row), performance.now());
        else if (row.op !== 'advance' || row.due_in_ms === 0) worker.wake();
      }
    },
    stop: async () => {
      stopping.abort();
      await worker.stop();
      const cut = setTimeout(() => cutting.abort(), limits.stopMsMax);
      while (running.size > 0) await Promise.all(running);
      clearTimeout(cut);
    },
  };
}

async function runGuarded(
  dependencies: SagaRunnerDependencies,
  holder: SagaOwner,
  claim: SagaClaim,
  heldFrom: number,
): Promise<void> {
  const { pool, definitions, limits, log } = dependencies;
  const { sagaId, definitionVersion, failures } = claim;
  try {
    const definition = definitions.find(
      ({ name, version }) => name === claim.definition && version === definitionVersion,
    );
    if (!definition) {
      throw new Error(`${claim.definition} version ${definitionVersion} is not known here`);
    }
    await dependencies.clock.ready();
    await runSaga({ dependencies, holder, definition, claim }, heldFrom);
  } catch (err) {
    if (holder.cutting.aborted) return; // the lease runs out
    log.error({ sagaId, failures, err }, 'saga run failed, giving it back');
    const dueInMs = Math.ceil(fullJitterMs(failures + 1, limits.retry));
    const failed = !isOfDatabase(err);
    const givenBack =
      !failed || failures + 1 < FAILED_RUNS_MAX
        ? giveBack(pool, claim, { dueInMs, failed })
        : setAside(pool, claim, `${FAILED_RUNS_MAX} runs failed, the last with ${nameOf(err)}`);
    await givenBack.catch((err: unknown) => {
      log.error({ sagaId, err }, 'saga not given back: its lease must end');
    });
  }
}

/** The saga is not at fault: an outage of the database must not make it wait for an operator. */
function isOfDatabase(error: unknown): boolean {
  return (
    isOutage(error) ||
    error instanceof StoreUnavailable ||
    error instanceof CommandUncertain ||
    error instanceof CommandOverloaded
  );
}

/** Not the message, which may quote what a caller sent. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : 'an unknown error';
}

function beginSaga(
  definition: SagaDefinition | undefined,
  { sagaId, subjectId, metadata, at }: SagaStart,
  holder: Pick<SagaOwner, 'owner' | 'leaseMs'> | null,
): BegunSaga {
  if (!definition) throw new Error('there is no definition to start a saga with');
  const { name, version } = definition;
  const data = { definition: name, definitionVersion: version, subjectId };
  const started = { type: 'SagaStarted', data, recordedAt: at } as const;
  return {
    append: {
      streamId: sagaId,
      category: name,
      expectedVersion: 0,
      events: [toNewSagaEvent(started, metadata)],
    },
    work: {
      op: 'begin',
      saga_id: sagaId,
      subject_id: subjectId,
      definition: name,
      definition_version: version,
      owner: holder?.owner ?? null,
      lease_ms: holder?.leaseMs ?? null,
      due_in_ms: holder?.leaseMs ?? 0,
    },
  };
}

/** The claim on a saga that this process has started. Its lease began with the commit. */
function firstClaim(row: Extract<SagaWorkRow, { op: 'begin' }>): SagaClaim {
  return {
    sagaId: row.saga_id,
    subjectId: row.subject_id,
    definition: row.definition,
    definitionVersion: row.definition_version,
    epoch: FIRST_EPOCH,
    failures: 0,
  };
}
