import { z } from 'zod';

const count = (min: number, max: number) => z.coerce.number().int().min(min).max(max);
const onOff = z.enum(['on', 'off']).transform((value) => value === 'on');

/** Every setting: an environment variable, its bounds, its default and what it is for. */
const settings = {
  HOST: z.string().min(1).default('127.0.0.1').describe('Address to listen on.'),
  PORT: count(0, 65_535).default(3000).describe('Port to listen on; 0 takes any free one.'),
  LOG_LEVEL: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
    .default('info')
    .describe('Least important log lines to print.'),
  DATABASE_URL: z
    .url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' })
    .describe('Postgres to keep orders in, as postgres://user:password@host:port/database.'),
  DATABASE_POOL_MAX: count(2, 100)
    .default(10)
    .describe('Connections for reads and background work; the write path has two more.'),
  KAFKA_BROKERS: z
    .string()
    .default('')
    .transform((value) => value.split(',').flatMap((broker) => broker.trim() || []))
    .describe('Kafka brokers, host:port, comma separated. Empty: events wait in the outbox.'),
  KAFKA_TOPIC: z
    .string()
    .regex(/^[a-zA-Z0-9._-]{1,249}$/, 'must be a legal Kafka topic name')
    .default('order.events')
    .describe('Topic that events are published to; created if it is missing.'),
  KAFKA_TOPIC_PARTITIONS: count(1, 1000)
    .default(6)
    .describe('Partitions of the topic when the service creates it.'),
  KAFKA_TOPIC_REPLICATION: count(1, 10)
    .default(1)
    .describe('Replicas of each partition when the service creates the topic; 3 in production.'),
  RELAY: onOff
    .default(true)
    .describe('on publishes the outbox from this process; off leaves it to an outside relay.'),
  OUTBOX_MAX_ROWS: count(1, 1_000_000_000)
    .default(1_000_000)
    .describe('Unpublished events past which commands are refused with 503 outbox_full.'),
  COMMAND_QUEUE_MAX: count(1, 1_000_000)
    .default(2000)
    .describe('Commands that may wait for a commit; past it they are refused with 503.'),
  COMMAND_BATCH_MAX: count(1, 1000).default(64).describe('Commands that share one commit at most.'),
  SHUTDOWN_DELAY_MS: count(0, 60_000)
    .default(0)
    .describe('How long to go on serving after SIGTERM while /readyz already says no.'),
} as const;

const schema = z.object(settings);

/** The settings of one process, checked. */
export type Config = Readonly<z.infer<typeof schema>>;

/** Names every setting that is wrong, and why. */
export class ConfigInvalid extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`the configuration is not valid:\n  ${problems.join('\n  ')}`);
    this.name = 'ConfigInvalid';
    this.problems = problems;
  }
}

/**
 * Reads settings from environment variables. An empty variable counts as unset.
 * @throws ConfigInvalid with all that is wrong at once
 */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const given = Object.fromEntries(
    Object.keys(settings).flatMap((name) => (env[name] ? [[name, env[name]]] : [])),
  );
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  throw new ConfigInvalid(
    result.error.issues.map(({ path, message }) => {
      const name = String(path[0]);
      return given[name] === undefined ? `${name}: is not set` : `${name}: ${message}`;
    }),
  );
}

/** One line a setting: name, default, meaning. */
export function describeConfig(): string {
  const lines = Object.entries(settings).map(([name, setting]) => {
    const byDefault = setting.safeParse(undefined);
    const value = byDefault.success ? printed(byDefault.data) : 'required';
    return `${name.padEnd(24)} ${value.padEnd(14)} ${setting.description ?? ''}`;
  });
  return [`${'name'.padEnd(24)} ${'default'.padEnd(14)} meaning`, ...lines].join('\n');
}

function printed(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (Array.isArray(value)) return value.join(',') || '(empty)';
  return String(value);
}
