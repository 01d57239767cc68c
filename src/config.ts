import { accessSync, constants } from 'node:fs';
import { z } from 'zod';

const PORT_MAX = 65_535;
const count = (min: number, max: number) =>
  z
    .string()
    .regex(/^[0-9]+$/, { error: 'must be a whole number, in digits', abort: true })
    .transform(Number)
    .pipe(z.number().min(min).max(max));
const providerUrl = z
  .union([
    z.literal(''),
    z.url({ protocol: /^https?$/, error: 'must be a http:// or https:// URL' }).refine(
      (url) => {
        const { username, password, search, hash } = new URL(url);
        return username + password + search + hash === '';
      },
      { error: 'must not hold credentials, a query or a fragment' },
    ),
  ])
  .default('');
/** Where Postgres is and how to trust it. Anything else would go before what the service sets itself. */
const URL_PARAMETERS: readonly string[] = [
  'host',
  'port',
  'ssl',
  'sslmode',
  'sslnegotiation',
  'sslrootcert',
  'sslcert',
  'sslkey',
];
const URL_FILES: ReadonlySet<string> = new Set(['sslrootcert', 'sslcert', 'sslkey']);
const namesHost = (url: string) => {
  const parsed = URL.parse(url);
  return parsed === null || parsed.hostname !== '' || Boolean(parsed.searchParams.get('host'));
};
/** The files that the URL names and that this process cannot read. */
const unreadableFiles = (url: string) =>
  [...(URL.parse(url)?.searchParams ?? [])].filter(
    ([name, path]) => URL_FILES.has(name) && !isReadable(path),
  );
const isReadable = (path: string) => {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
};
const parametersOf = (url: string) => [...(URL.parse(url)?.searchParams.keys() ?? [])];
/** What RFC 6750 lets a bearer token be made of. */
const apiKey = z
  .string()
  .regex(/^[A-Za-z0-9._~+/=-]*$/, 'has a character that a bearer token may not have')
  .default('');
const BROKER = /^(?:[\w.-]+|\[[\da-fA-F:]+\]):(\d{1,5})$/;
const isBroker = (broker: string) => {
  const port = Number(BROKER.exec(broker)?.[1]);
  return port >= 1 && port <= PORT_MAX;
};
const onOff = z.enum(['on', 'off']).transform((value) => value === 'on');

/** Every setting: an environment variable, its bounds, its default and what it is for. */
const settings = {
  HOST: z.string().min(1).default('127.0.0.1').describe('Address to listen on.'),
  PORT: count(0, PORT_MAX).default(3000).describe('Port to listen on; 0 takes any free one.'),
  CONNECTIONS_MAX: count(10, 100_000)
    .default(4000)
    .describe(
      'Connections of callers at once; past it an idle one is closed, or the new one gets 503.',
    ),
  REQUEST_BYTES_MAX: count(1_048_576, 17_179_869_184)
    .default(33_554_432)
    .describe('Bytes of request bodies held at once; past it requests are refused with 503.'),
  LOG_LEVEL: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
    .default('info')
    .describe('Least important log lines to print.'),
  DATABASE_URL: z
    .url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' })
    .refine((url) => parametersOf(url).every((name) => URL_PARAMETERS.includes(name)), {
      error: `may hold ${URL_PARAMETERS.join(', ')} in its query, nothing else`,
    })
    .refine(namesHost, 'must name a host: postgres://user:password@host:port/database')
    .superRefine((url, context) => {
      for (const [name, path] of unreadableFiles(url)) {
        context.addIssue(`names a file that cannot be read: ${name}=${path}`);
      }
    })
    .describe('Postgres to keep orders in, as postgres://user:password@host:port/database.'),
  DATABASE_POOL_MAX: count(2, 100)
    .default(10)
    .describe(
      'Connections for reads and background work; the write path has two more, the stock too.',
    ),
  KAFKA_BROKERS: z
    .string()
    .default('')
    .transform((value) => value.split(',').flatMap((broker) => broker.trim() || []))
    .pipe(z.array(z.string().refine(isBroker, 'must be host:port, comma separated')))
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
  OUTBOX_MAX_ROWS: count(1, 10_000_000)
    .default(1_000_000)
    .describe('Unpublished events past which commands are refused with 503 outbox_full.'),
  COMMAND_QUEUE_MAX: count(1, 20_000)
    .default(2000)
    .describe('Commands that may wait for a commit; past it they are refused with 503.'),
  COMMAND_BATCH_MAX: count(1, 1000).default(64).describe('Commands that share one commit at most.'),
  PAYMENT_URL: providerUrl.describe(
    'Payment provider (docs/providers.md). Empty, with SHIPPING_URL: no fulfilment, only by hand.',
  ),
  SHIPPING_URL: providerUrl.describe('Shipping provider (docs/providers.md).'),
  PAYMENT_API_KEY: apiKey.describe('Sent to the payment provider, if set.'),
  SHIPPING_API_KEY: apiKey.describe('Sent to the shipping provider, if set.'),
  PROVIDER_TIMEOUT_MS: count(50, 300_000)
    .default(30_000)
    .describe('How long one call to a provider may take; a short one only makes more unknowns.'),
  PROVIDER_CALLS_MAX: count(1, 1000).default(32).describe('Calls to one provider at once.'),
  SAGA_CONCURRENCY: count(1, 10_000).default(100).describe('Sagas that are worked on at once.'),
  SAGA_POLL_MS: count(10, 60_000)
    .default(1000)
    .describe('How often to look for sagas that are due and that nobody works on.'),
  SAGA_RETRY_MS: count(1, 60_000)
    .default(1000)
    .describe('Longest wait before a step is tried a second time; doubles with each try.'),
  SAGA_RETRY_MS_MAX: count(1, 3_600_000)
    .default(300_000)
    .describe('Longest wait between two tries of a step.'),
  SAGA_LEASE_MARGIN_MS: count(100, 60_000)
    .default(5000)
    .describe('How much longer than two calls a saga is kept from others by whoever works on it.'),
  CAPTURE_DEADLINE_S: count(1, 64_800)
    .default(900)
    .describe('When to give up on a payment: it is settled by its key, and the order cancelled.'),
  SHIP_DEADLINE_S: count(1, 64_800)
    .default(43_200)
    .describe('When to give up on a shipment: it is settled by its key, while that is known.'),
  UNDO_DEADLINE_S: count(1, 604_800)
    .default(86_400)
    .describe('When to give up on undoing a step: the saga is then stuck.'),
  VERIFY_INTERVAL_S: count(0, 86_400)
    .default(60)
    .describe('How often to compare a few orders of orders_summary with their events; 0 is never.'),
  SHUTDOWN_DELAY_MS: count(0, 60_000)
    .default(0)
    .describe('How long to go on serving after SIGTERM while /readyz already says no.'),
} as const;

const schema = z
  .object(settings)
  .refine(({ PAYMENT_URL, SHIPPING_URL }) => (PAYMENT_URL === '') === (SHIPPING_URL === ''), {
    error: 'must be set where PAYMENT_URL is, and not otherwise',
    path: ['SHIPPING_URL'],
  });

/** The environment variables that the service reads. */
export const settingNames: readonly string[] = Object.keys(settings);

const kafkaSchema = z.object({
  KAFKA_BROKERS: settings.KAFKA_BROKERS,
  KAFKA_TOPIC: settings.KAFKA_TOPIC,
});

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

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads settings from environment variables. An empty variable counts as unset.
 * @throws ConfigInvalid with all that is wrong at once
 */
export function readConfig(env: Environment): Config {
  return read(schema, env);
}

/** The same for what only reads the topic. @throws ConfigInvalid */
export function readKafkaConfig(env: Environment): z.infer<typeof kafkaSchema> {
  return read(kafkaSchema, env);
}

function read<Settings>(from: z.ZodType<Settings>, env: Environment): Settings {
  const given = Object.fromEntries(
    Object.keys(settings).flatMap((name) => (env[name] ? [[name, env[name]]] : [])),
  );
  const result = from.safeParse(given);
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
  const forTests =
    'TEST_INFRA'.padEnd(24) + ' (any)'.padEnd(15) + ' For npm test: docker, embedded or none.';
  return [`${'name'.padEnd(24)} ${'default'.padEnd(14)} meaning`, ...lines, forTests].join('\n');
}

function printed(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (Array.isArray(value)) return value.join(',') || '(empty)';
  return String(value);
}
