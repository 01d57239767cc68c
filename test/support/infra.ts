import { inject } from 'vitest';

/** Where the servers of the tests come from. `none` skips the tests that need one. */
export type InfraMode = 'docker' | 'embedded' | 'none';

/** What a test may need. `pgbouncer` is a program of this machine. */
export type Part = 'postgres' | 'kafka' | 'pgbouncer';

/** What global-setup provides to the test files. */
export type Infra = Readonly<{
  mode: InfraMode;
  /** Names everything that this run started, so that it is found again. */
  run: string;
  /** Why a server cannot be started here. Unset if it can. */
  missing: Readonly<Partial<Record<Part, string>>>;
  /** The URL of the server that starts the shared Postgres and Kafka at their first use. */
  address: string;
}>;

declare module 'vitest' {
  interface ProvidedContext {
    infra: Infra;
  }
}

/**
 * Returns why tests that need the server cannot run here, as in `describe.skipIf(skipReason('kafka'))(...)`.
 * global-setup prints the reason.
 * @throws an Error instead of a reason if no test may be skipped: with REQUIRE_ALL_TESTS=1 or CI=true
 */
export function skipReason(part: Part): string | undefined {
  const reason = inject('infra').missing[part];
  const { CI, REQUIRE_ALL_TESTS } = process.env;
  if (reason !== undefined && (CI === 'true' || REQUIRE_ALL_TESTS === '1')) {
    throw new Error(`these tests must run here, but there is no ${part}: ${reason}`);
  }
  return reason;
}

/** Returns the address of the shared server of this run, which starts at its first use. */
export async function sharedServer(part: 'postgres' | 'kafka'): Promise<string> {
  const { missing, address } = inject('infra');
  if (missing[part] !== undefined) throw new Error(`there is no ${part}: ${missing[part]}`);
  const response = await fetch(`${address}/${part}`);
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return text;
}
