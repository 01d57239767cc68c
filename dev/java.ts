import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { javaLookupEnvironment } from './environment.ts';

const JAVA_MIN = 17;
const ASCII = /^[\x20-\x7e]*$/;

/** Why there can be no local broker. */
export type KafkaUnavailable = Readonly<{ reason: string }>;

type Java = Readonly<{ path: string; version: number; fileNames: string }>;

/**
 * The path of a Java that can run Kafka on the folders: the first of the PATH, or that of JAVA_HOME. It
 * is the program itself, not the shim of a version manager, which needs variables of its own.
 */
export async function findJava(folders: readonly string[]): Promise<string | KafkaUnavailable> {
  const { JAVA_HOME } = process.env;
  const names = ['java', ...(JAVA_HOME ? [join(JAVA_HOME, 'bin', 'java')] : [])];
  const found = (await Promise.all(names.map(inspect))).filter((java) => java !== undefined);
  const java = found.find(({ version }) => version >= JAVA_MIN);
  if (java === undefined) {
    const [old] = found;
    if (old === undefined) return { reason: 'java is not installed' };
    return { reason: `java is version ${old.version}, Kafka needs ${JAVA_MIN}` };
  }
  for (const folder of folders) {
    const problem = problemOf(folder, java);
    if (problem) return { reason: `${problem}: move the checkout to a folder with a plain name` };
  }
  return java.path;
}

/** Why Java cannot work below the folder, if it cannot. */
function problemOf(folder: string, { fileNames }: Java): string | undefined {
  if (folder.includes('!/')) return `java takes ${folder} for an archive`;
  if (ASCII.test(folder) || fileNames === 'UTF-8') return undefined;
  return `java takes file names for ${fileNames} here and cannot find ${folder}`;
}

async function inspect(java: string): Promise<Java | undefined> {
  try {
    const options = ['-XshowSettings:properties', '-version'];
    const { stderr } = await promisify(execFile)(java, options, { env: javaLookupEnvironment() });
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
    return undefined; // not there, or the stub that macOS has in its place
  }
}
