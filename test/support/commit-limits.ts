import type { GroupCommitLimits } from '#src/event-store/group-commit.ts';

/** Limits of a group commit that no test reaches by accident. */
export const COMMIT_LIMITS: GroupCommitLimits = {
  batchMax: 64,
  slots: 2,
  queueMax: 2000,
  streamMax: 2000,
  reservedMax: 100,
  waitMaxMs: 60_000,
  oneByOneMsMax: 2_000,
  lockedMsMax: 1_000,
};
