import { closeSync, openSync, readSync } from 'node:fs';
import { z } from 'zod';

/** Environment variables by name. An empty one counts as unset. */
export type Environment = Readonly<Record<string, string | undefined>>;
/** The settings of one schema by name. */
type Settings = Readonly<Record<string, z.core.$ZodType>>;

/** The text of one setting, or why there is none. */
type Given = Readonly<{
  /** The environment variable that it comes from: the name of the setting, or `<NAME>_FILE`. */
  variable: string;
  text?: string;
  problem?: string;
}>;

const SECRET_BYTES_MAX = 65_536;
const MASK = '****';
const NAME_WIDTH = 24;
const VALUE_WIDTH = 14;
const SOURCE_WIDTH = 11;
const secrets = z.registry<{ shown: (text: string) => string }>();

/**
 * Marks a setting as secret. It can then also be given as a file, whose path is in `<NAME>_FILE`, and its
 * value is never printed: `shown` returns what may be seen of it.
 */
export function secret<Schema extends z.ZodType>(
  schema: Schema,
  shown: (text: string) => string = () => MASK,
): Schema {
  const own = schema.clone(); // another setting may have the same schema
  secrets.add(own, { shown });
  return own;
}

/** From the user to the last `@`: a password may contain characters that end it too early. */
const PASSWORD = /^(\w+:(?:\/\/)?[^:]*):.*@/s;
const HOST = String.raw`(?:[\w.%-]*|\[[^\]/@]*\])(?::\d*)?`;
const SHOWABLE = new RegExp(
  String.raw`^postgres(?:ql)?:(?://)?(?:[^:/?#]*(?::\*{4})?@)?${HOST}(?:,${HOST})*(?:[/?#](?!/).*)?$`,
  'i',
);

/** A URL of a database with its password masked. If it is not certain which part that is, all of it is masked. */
export function withoutPassword(url: string): string {
  const masked = url.replace(PASSWORD, `$1:${MASK}@`);
  return SHOWABLE.test(masked) && !/\?.*pass/is.test(masked) ? masked : MASK;
}

/** Every environment variable that these settings are read from. */
export function variablesOf(settings: Settings): string[] {
  return Object.keys(settings).flatMap((name) =>
    isSecret(settings, name) ? [name, fileVariable(name)] : [name],
  );
}

/** The settings that the environment gives, by name. Does not check their values. */
export function readGiven(settings: Settings, env: Environment): ReadonlyMap<string, Given> {
  return new Map(
    Object.keys(settings).flatMap((name) => {
      const given = isSecret(settings, name) ? readSecret(name, env) : readPlain(name, env);
      return given === undefined ? [] : [[name, given] as const];
    }),
  );
}

/**
 * One line for each setting: name, value in force, where it comes from, meaning. Secrets are masked. A value is
 * listed as it was given, whether it is valid or not.
 */
export function listSettings(settings: Settings, env: Environment): string {
  const given = readGiven(settings, env);
  const lines = Object.entries(settings).map(([name, setting]) => {
    const byDefault = defaultOf(setting);
    const description = z.globalRegistry.get(setting)?.description ?? '';
    const asFile = isSecret(settings, name) ? ` As a file: ${fileVariable(name)}.` : '';
    const meaning = description + asFile;
    const own = given.get(name);
    if (own === undefined) {
      return byDefault === undefined
        ? listLine(name, 'required', '', meaning)
        : listLine(name, byDefault, 'default', meaning);
    }
    const value = own.text === undefined ? 'not valid' : shownValue(setting, own.text);
    const source = own.variable === name ? 'environment' : 'file';
    const otherwise = byDefault === undefined ? '' : ` Default: ${byDefault}.`;
    return listLine(name, value, source, meaning + otherwise);
  });
  const forTests = listLine('TEST_INFRA', '(any)', '', 'For npm test: docker, embedded or none.');
  return [listLine('name', 'value', 'from', 'meaning'), ...lines, forTests].join('\n');
}

function readPlain(name: string, env: Environment): Given | undefined {
  const text = env[name];
  return text ? { variable: name, text } : undefined;
}

function readSecret(name: string, env: Environment): Given | undefined {
  const variable = fileVariable(name);
  const path = env[variable];
  if (!path) return readPlain(name, env);
  if (env[name]) return { variable, problem: `must not be set if ${name} is set` };
  try {
    const text = readStart(path);
    if (text.length > SECRET_BYTES_MAX)
      return { variable, problem: 'names a file that is too large' };
    const value = text.toString('utf8').replace(/[\r\n]+$/, '');
    return value === ''
      ? { variable, problem: 'names a file that is empty' }
      : { variable, text: value };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
    // Not the path: it may be the secret itself, by mistake.
    return { variable, problem: `names a file that cannot be read${code}` };
  }
}

/** At most one byte more than a secret may have, because a wrong path may name a file without end. */
function readStart(path: string): Buffer {
  const buffer = Buffer.alloc(SECRET_BYTES_MAX + 1);
  const file = openSync(path, 'r');
  try {
    let length = 0;
    for (let read = -1; read !== 0 && length < buffer.length; length += read) {
      read = readSync(file, buffer, length, buffer.length - length, null);
    }
    return buffer.subarray(0, length);
  } finally {
    closeSync(file);
  }
}

function isSecret(settings: Settings, name: string): boolean {
  const setting = settings[name];
  return setting !== undefined && secrets.get(setting) !== undefined;
}

function fileVariable(name: string): string {
  return `${name}_FILE`;
}

function shownValue(setting: z.core.$ZodType, text: string): string {
  const mark = secrets.get(setting);
  // A URL may contain credentials although it must not.
  return mark === undefined ? text.replace(/\/\/.*@/s, `//${MASK}@`) : mark.shown(text);
}

/** The default as text; undefined if the setting is required. */
function defaultOf(setting: z.core.$ZodType): string | undefined {
  const { success, data } = z.safeParse(setting, undefined);
  if (!success) return undefined;
  if (typeof data === 'boolean') return data ? 'on' : 'off';
  return [data].join(',') || '(empty)'; // also for undefined
}

function listLine(name: string, value: string, source: string, meaning: string): string {
  return [
    name.padEnd(NAME_WIDTH),
    value.padEnd(VALUE_WIDTH),
    source.padEnd(SOURCE_WIDTH),
    meaning,
  ].join(' ');
}
