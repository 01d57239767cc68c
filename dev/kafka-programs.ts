import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cachedFolder } from './cached-folder.ts';
import { javaLookupEnvironment, mavenEnvironment } from './environment.ts';
import { hasCode, outputOf } from './processes.ts';

const run = promisify(execFile);
const JAVA_MIN = 17;
const ASCII = /^[\x20-\x7e]*$/;
const POM = fileURLToPath(new URL('kafka/pom.xml', import.meta.url));
const MAVEN_ERROR = '[ERROR] ';
const NO_REPOSITORY = /Could not create local repository/;
const OWN_REPOSITORY = 'maven-repository';
const FETCH_MS_MAX = 10 * 60_000;

/** The path of `java`, and the folder that holds the jars of Apache Kafka. */
export type KafkaPrograms = Readonly<{ java: string; libraries: string }>;

export type KafkaProgramOptions = Readonly<{
  /** The broker's working folder. */
  folder: string;
  /** Holds the jars. Brokers may share it. */
  cacheFolder: string;
  log: (line: string) => void;
  /** Aborts the download by Maven. */
  signal?: AbortSignal;
}>;

/**
 * Finds Java and the jars of Kafka. Maven downloads the jars the first time, and again when the pom has changed
 * or a jar is missing.
 * @throws an Error whose message says why there can be no local broker
 */
export async function kafkaPrograms(options: KafkaProgramOptions): Promise<KafkaPrograms> {
  const { folder, cacheFolder, log, signal } = options;
  const java = await findJava([folder, cacheFolder]);
  const version = createHash('sha256')
    .update(await readFile(POM))
    .digest('hex');
  const libraries = join(cacheFolder, `kafka-${version.slice(0, 12)}`);
  try {
    await cachedFolder(libraries, async (unfinished) => {
      log('Kafka 4.3.1: downloading with Maven, first time only...');
      await downloadInto(unfinished, signal);
    });
  } catch (error) {
    const reason = hasCode(error, 'ENOENT')
      ? 'mvn (Maven) is not installed'
      : `Maven could not download Kafka: ${firstProblem(error)}`;
    throw new Error(reason, { cause: error });
  }
  return { java, libraries };
}

/**
 * The path of a Java that can run Kafka in the folders: the first in the PATH, or the one of JAVA_HOME. The
 * path is that of the program itself, not of a version manager's shim, which needs variables of its own.
 * @throws an Error whose message says what is missing or wrong
 */
export async function findJava(folders: readonly string[]): Promise<string> {
  const { JAVA_HOME } = process.env;
  const names = ['java', ...(JAVA_HOME ? [join(JAVA_HOME, 'bin', 'java')] : [])];
  const found = (await Promise.all(names.map(inspectJava))).filter((java) => java !== undefined);
  const [first] = found;
  if (first === undefined) throw new Error('java is not installed');
  const java = found.find(({ version }) => version >= JAVA_MIN);
  if (!java) throw new Error(`java is version ${first.version}, Kafka needs ${JAVA_MIN} or later`);
  for (const folder of folders) {
    const problem = problemOf(folder, java.fileNames);
    if (problem) throw new Error(`${problem}: move the checkout to a folder with a plain name`);
  }
  return java.path;
}

/** Why Java cannot work in the folder, if it cannot. */
function problemOf(folder: string, fileNames: string): string | undefined {
  if (folder.includes('!/')) return `java takes ${folder} for an archive`;
  if (ASCII.test(folder) || fileNames === 'UTF-8') return undefined;
  return `java reads file names as ${fileNames} and cannot find ${folder}`;
}

async function inspectJava(java: string) {
  try {
    const options = ['-XshowSettings:properties', '-version'];
    const { stderr } = await run(java, options, { env: javaLookupEnvironment() });
    const property = (name: string) =>
      stderr
        .split('\n')
        .find((line) => line.trim().startsWith(`${name} = `))
        ?.split(' = ')[1] ?? '';
    return {
      path: join(property('java.home'), 'bin', 'java'),
      version: Number(property('java.specification.version').replace(/^1\./, '')),
      fileNames: property('sun.jnu.encoding'),
    };
  } catch {
    return undefined; // not installed, or the stub of macOS
  }
}

/**
 * Maven keeps its downloads below the home directory, for all projects. Where it may not write there, it keeps
 * them in the folder until the jars are copied.
 */
async function downloadInto(folder: string, signal: AbortSignal | undefined): Promise<void> {
  await copyFile(POM, join(folder, 'pom.xml'));
  try {
    await runMaven(folder, [], signal);
  } catch (error) {
    if (!NO_REPOSITORY.test(outputOf(error))) throw error;
    await runMaven(folder, [`-Dmaven.repo.local=${OWN_REPOSITORY}`], signal);
    await rm(join(folder, OWN_REPOSITORY), { recursive: true });
  }
}

/** Maven runs in the folder with relative names, so the names of the folders above do not matter. */
async function runMaven(
  folder: string,
  options: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const goal = ['dependency:copy-dependencies', '-DoutputDirectory=.'];
  await run('mvn', ['--batch-mode', '-Dstyle.color=never', ...goal, ...options], {
    cwd: folder,
    env: mavenEnvironment(),
    timeout: FETCH_MS_MAX,
    signal,
  });
}

/** The first error of Maven, or else of Java or the shell that starts it. */
function firstProblem(error: unknown): string {
  const lines = outputOf(error).split('\n');
  const problem = lines.find((line) => line.startsWith(MAVEN_ERROR))?.slice(MAVEN_ERROR.length);
  const other = lines.find((line) => line.trim() && !/^(NOTE: )?Picked up|^\[/.test(line));
  return problem ?? other ?? String(error);
}
