import { hostname, userInfo } from 'node:os';
import { parseArgs } from 'node:util';
import type { ParseArgsOptionsConfig } from 'node:util';
import type { Pool } from 'pg';
import { z } from 'zod';

const optionsOfAll = z.object({ by: z.string().optional() });
const UNIT_MS: Readonly<Record<string, number>> = {
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** The arguments make no valid command. The message says why. */
export class UsageError extends Error {}

/** The command cannot be carried out now. The message says why. */
export class Refused extends Error {}

/** Who runs the command, for the record. */
export const BY = { type: 'string' } as const;

/** Who runs a command, on which database, with what after its name. */
export type Call<Config extends ParseArgsOptionsConfig> = Readonly<{
  pool: Pool;
  actor: string;
  operands: readonly string[];
  options: ReturnType<typeof parse<Config>>['values'];
}>;

/** The commands of one area, by name. Each resolves to the text to print. */
export type CommandSet<Config extends ParseArgsOptionsConfig> = Readonly<{
  usage: string;
  options: Config;
  commands: Readonly<Record<string, (call: Call<Config>) => Promise<string>>>;
}>;

/**
 * Runs one command of an operator and prints its result.
 * @returns the exit code: 0 done, 1 refused, 2 wrong usage
 */
export async function runOperatorCommand<const Config extends ParseArgsOptionsConfig>(
  { usage, commands, ...set }: CommandSet<Config>,
  args: readonly string[],
  pool: Pool,
  print: (text: string) => void,
): Promise<number> {
  try {
    const { values: options, positionals } = parse(args, set.options);
    const [name = '', ...operands] = positionals;
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (command === undefined) throw new UsageError(name ? `unknown command ${name}` : '');
    const { by } = optionsOfAll.parse(options);
    print(await command({ pool, actor: by ?? userName(), operands, options }));
    return 0;
  } catch (error) {
    if (error instanceof Refused) {
      print(error.message);
      return 1;
    }
    if (!(error instanceof UsageError)) throw error;
    print(error.message ? `${error.message}\n\n${usage}` : usage);
    return 2;
  }
}

function parse<Config extends ParseArgsOptionsConfig>(args: readonly string[], options: Config) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** The operands of a command, which has exactly these. @throws UsageError */
export function expectOperands(
  { operands }: Readonly<{ operands: readonly string[] }>,
  names: readonly string[],
): readonly string[] {
  const missing = names[operands.length];
  if (missing !== undefined) throw new UsageError(`${missing} is missing`);
  const extra = operands[names.length];
  if (extra !== undefined) throw new UsageError(`${extra} is too much`);
  return operands;
}

/** A length of time such as `2h`, in milliseconds. @throws UsageError */
export function parseDuration(option: string, text: string, example: string): number {
  const [, count, unit = ''] = /^([0-9]{1,6})([smhd])$/.exec(text) ?? [];
  const unitMs = UNIT_MS[unit];
  if (unitMs === undefined) {
    throw new UsageError(`${option} takes a number and s, m, h or d: ${example}`);
  }
  return Number(count) * unitMs;
}

/** A user id may have no name, for example in a container. */
function userName(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    return `${process.getuid?.() ?? 'unknown'}@${hostname()}`;
  }
}
