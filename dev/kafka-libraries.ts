import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cachedFolder } from './cached-folder.ts';
import { mavenEnvironment } from './environment.ts';
import { findJava } from './java.ts';
import type { KafkaUnavailable } from './java.ts';
import { hasCode } from './processes.ts';

const POM = fileURLToPath(new URL('kafka/pom.xml', import.meta.url));
const PROBLEM = '[ERROR] ';
const NO_REPOSITORY = /Could not create local repository/;
const OWN_REPOSITORY = 'maven-repository';
const FETCH_MS_MAX = 10 * 60_000;

/** What a broker is made of: the `java` to run, and the folder with Apache Kafka's jars. */
export type KafkaPrograms = Readonly<{ java: string; libraries: string }>;

/**
 * Finds Java and Kafka's jars. The jars are kept below `cacheFolder`: fetched by Maven the first time, and
 * again when the pom has changed or one of them is gone.
 */
export async function kafkaPrograms({
  folder,
  cacheFolder,
  log,
  signal,
}: Readonly<{
  /** Where the broker is to work. */
  folder: string;
  cacheFolder: string;
  log: (line: string) => void;
  signal?: AbortSignal;
}>): Promise<KafkaPrograms | KafkaUnavailable> {
  const java = await findJava([folder, cacheFolder]);
  if (typeof java !== 'string') return java;
  const pom = await readFile(POM);
  const version = createHash('sha256').update(pom).digest('hex').slice(0, 12);
  const libraries = join(cacheFolder, `kafka-${version}`);
  try {
    await cachedFolder(libraries, async (unfinished) => {
      log('Kafka 4.3.1: fetching from Maven, first time only...');
      await fetchInto(unfinished, signal);
    });
    return { java, libraries };
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return { reason: 'mvn (Maven) is not installed' };
    return { reason: `Maven could not fetch Kafka: ${firstProblem(error)}` };
  }
}

/**
 * Maven keeps what it fetches below the home directory, for all its projects. Where it may not write there,
 * it keeps it in the folder, until the jars are out of it.
 */
async function fetchInto(folder: string, signal: AbortSignal | undefined): Promise<void> {
  await copyFile(POM, join(folder, 'pom.xml'));
  try {
    await runMaven(folder, [], signal);
  } catch (error) {
    if (!NO_REPOSITORY.test(outputOf(error))) throw error;
    await runMaven(folder, [`-Dmaven.repo.local=${OWN_REPOSITORY}`], signal);
    await rm(join(folder, OWN_REPOSITORY), { recursive: true });
  }
}

/** Started in the folder, with names relative to it: Maven needs to know nothing of the folders above. */
async function runMaven(
  folder: string,
  options: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const goal = ['dependency:copy-dependencies', '-DoutputDirectory=.'];
  await promisify(execFile)('mvn', ['--batch-mode', '-Dstyle.color=never', ...goal, ...options], {
    cwd: folder,
    env: mavenEnvironment(),
    timeout: FETCH_MS_MAX,
    signal,
  });
}

/** What Maven says is wrong, or else what Java or the shell says that starts it. */
function firstProblem(error: unknown): string {
  const lines = outputOf(error).split('\n');
  const problem = lines.find((line) => line.startsWith(PROBLEM))?.slice(PROBLEM.length);
  const other = lines.find((line) => line.trim() && !/^(NOTE: )?Picked up|^\[/.test(line));
  return problem ?? other ?? String(error);
}

function outputOf(error: unknown): string {
  if (!(error instanceof Error && 'stdout' in error && 'stderr' in error)) return '';
  return `${String(error.stdout)}\n${String(error.stderr)}`;
}
