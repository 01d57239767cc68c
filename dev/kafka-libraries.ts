import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { hasCode } from './processes.ts';

const run = promisify(execFile);
const POM = fileURLToPath(new URL('kafka/pom.xml', import.meta.url));
const JAVA_MIN = 17;
const FETCH_MS_MAX = 10 * 60_000;

/** Why there can be no local broker. */
export type KafkaUnavailable = Readonly<{ reason: string }>;

/**
 * The folder with Apache Kafka's jars, below `cacheFolder`: fetched by Maven the first time, and again
 * when the pom has changed.
 */
export async function kafkaLibraries({
  cacheFolder,
  log,
  signal,
}: Readonly<{
  cacheFolder: string;
  log: (line: string) => void;
  signal?: AbortSignal;
}>): Promise<string | KafkaUnavailable> {
  const java = await javaMajor();
  if (java === undefined) return { reason: 'java is not installed' };
  if (java < JAVA_MIN) return { reason: `java is version ${java}, Kafka needs ${JAVA_MIN}` };
  const pom = await readFile(POM);
  const version = createHash('sha256').update(pom).digest('hex').slice(0, 12);
  const libraries = join(cacheFolder, `kafka-${version}`);
  if (existsSync(libraries)) return libraries;
  log('Kafka 4.3.1: fetching from Maven, first time only...');
  const failure = await fetchInto(libraries, signal);
  return failure ?? libraries;
}

async function javaMajor(): Promise<number | undefined> {
  try {
    const { stderr } = await run('java', ['-version']);
    const [, major] = /version "(\d+)/.exec(stderr) ?? [];
    return Number(major ?? 0);
  } catch {
    return undefined; // not there, or the stub that macOS has in its place
  }
}

/** All or nothing: the folder appears when it is complete. */
async function fetchInto(
  libraries: string,
  signal: AbortSignal | undefined,
): Promise<KafkaUnavailable | undefined> {
  const unfinished = `${libraries}.${process.pid}`;
  await mkdir(unfinished, { recursive: true });
  try {
    const goal = ['dependency:copy-dependencies', `-DoutputDirectory=${unfinished}`];
    await run('mvn', ['--batch-mode', '-Dstyle.color=never', '--file', POM, ...goal], {
      timeout: FETCH_MS_MAX,
      signal,
    });
    await rename(unfinished, libraries);
    return undefined;
  } catch (error) {
    if (existsSync(libraries)) return undefined; // another start was faster
    if (hasCode(error, 'ENOENT')) return { reason: 'mvn (Maven) is not installed' };
    return { reason: `Maven could not fetch Kafka: ${firstProblem(error)}` };
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
}

function firstProblem(error: unknown): string {
  const output = error instanceof Error && 'stdout' in error ? String(error.stdout) : '';
  return /\[ERROR\] (.+)/.exec(output)?.[1] ?? String(error);
}
