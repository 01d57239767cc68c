import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createKey } from '#test/support/api-keys.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { startService } from '#test/support/service.ts';
import { startSimulator } from '#test/support/simulator.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

/*
 * schemathesis makes requests from the OpenAPI document that the service serves, valid and not valid ones, and checks
 * that each response is as documented: no 5xx, no undocumented status, header or body, nothing valid refused, nothing
 * invalid accepted, and 401 without a token and with a wrong one. Each operation counts as one test.
 */
const fileOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const PROGRAM = fileOf('../../.data/schemathesis/bin/schemathesis');
/** Of each operation, in each phase. */
const EXAMPLES = 20;
/** Fixed, so that one run is like the next. Another one tries other requests. */
const seed = process.env['TEST_SEED'] ?? '1';

const reportShape = z.looseObject({
  operations: z.looseObject({ total: z.number(), tested: z.number() }),
  test_cases: z.looseObject({ generated: z.number() }),
  failures: z.array(z.looseObject({ title: z.string(), operations: z.array(z.string()) })),
  errors: z.array(z.unknown()),
  valid_rates: z.record(z.string(), z.unknown()),
});

/** What schemathesis reports and prints of one run on a service that wants tokens. */
async function runSchemathesis() {
  await using folder = await createTestFolder('schemathesis');
  await using database = await createTestDatabase();
  await using simulator = await startSimulator();
  const { url } = simulator;
  const env = { AUTH: 'on', PAYMENT_URL: url, SHIPPING_URL: url };
  await using service = await startService({ databaseUrl: database.url, env });
  const key = await createKey(database.url);
  const report = join(folder.path, 'report.json');
  const args = [
    '--config-file',
    fileOf('schemathesis.toml'),
    'run',
    `${service.url}/openapi.json`,
    `--header=Authorization: Bearer ${key}`,
    `--seed=${seed}`,
    `--max-examples=${EXAMPLES}`,
    '--no-color',
    `--report-json-path=${report}`,
  ];
  const said = await promisify(execFile)(PROGRAM, args, {
    cwd: folder.path,
    maxBuffer: 2 ** 26,
  }).then(
    ({ stdout }) => stdout,
    // It has found something, or it could not run.
    (error: unknown) =>
      z.looseObject({ stdout: z.string(), stderr: z.string() }).parse(error).stdout,
  );
  const text = await readFile(report, 'utf8').catch(() => {
    throw new Error(`${PROGRAM} made no report:\n${said}`);
  });
  return { said, report: reportShape.parse(JSON.parse(text)) };
}

const { said, report } = await runSchemathesis();
const operations = Object.keys(report.valid_rates);
console.log(`schemathesis tried ${report.test_cases.generated} cases, seed ${seed}`);
if (report.failures.length + report.errors.length > 0) console.log(said);

describe('schemathesis', () => {
  test.each(operations)('finds nothing wrong with %s', (operation) => {
    const found = report.failures.filter((failure) => failure.operations.includes(operation));
    expect(found.map(({ title }) => title)).toEqual([]);
  });

  test('tried every operation, and had no error itself', () => {
    expect(report.operations.tested).toBe(report.operations.total);
    expect(operations).toHaveLength(report.operations.total);
    expect(report.errors).toEqual([]);
    expect(report.failures.flatMap((failure) => failure.operations)).toEqual([]);
    expect(report.test_cases.generated).toBeGreaterThan(200);
  });
});
