import { compile as compileProxies } from '@fastify/proxy-addr';
import { z } from 'zod';
import { listSettings, readGiven, secret, variablesOf, withoutPassword } from './config-values.ts';
import type { Environment } from './config-values.ts';
import { databaseUrlProblems } from './database/database-url.ts';
import { isLoopback } from './network/loopback.ts';
import { kafkaProblems } from './outbox/kafka-connection.ts';
import type { KafkaSettings } from './outbox/kafka-connection.ts';
import { kafkaClients } from './outbox/publishers.ts';

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
      { error: 'must not contain credentials, a query or a fragment' },
    ),
  ])
  .default('');
const databaseUrl = z.string().superRefine((text, context) => {
  for (const problem of databaseUrlProblems(text)) context.addIssue(problem);
});

/** The characters that RFC 6750 allows in a bearer token. */
const apiKey = z
  .string()
  .regex(/^[A-Za-z0-9._~+/=-]*$/, 'contains a character that is not allowed in a bearer token')
  .default('');
const BROKER = /^(?:[\w.-]+|\[[\da-fA-F:]+\]):(\d{1,5})$/;
const isBroker = (broker: string) => {
  const port = Number(BROKER.exec(broker)?.[1]);
  return port >= 1 && port <= PORT_MAX;
};
const onOff = z.enum(['on', 'off']).transform((value) => value === 'on');
const contractVersion = z
  .enum(['1', '2'], { error: 'must be 1 or 2' })
  .transform((version) => (version === '1' ? 1 : 2))
  .default(2);
const MECHANISMS = ['', 'plain', 'scram-sha-256', 'scram-sha-512'] as const;
const optionalText = z.string().default('');

const commaSeparated = z
  .string()
  .default('')
  .transform((value) => value.split(',').flatMap((each) => each.trim() || []));
const ORIGINS = 'must be origins such as https://shop.example, comma separated';
const origins = commaSeparated.pipe(z.array(z.string().refine(isOrigin, ORIGINS)));

/** Whether a browser would send exactly this as the origin of a page. */
function isOrigin(text: string): boolean {
  return /^https?:/.test(text) && URL.canParse(text) && new URL(text).origin === text;
}

/** Whether it becomes the address of a page when `{orderId}` in its path, query or fragment is filled in. */
const isPageOfOrder = (text: string) => {
  if (!/^https?:\/\/[^/?#{]+[/?#].*\{orderId\}/.test(text)) return false;
  const filled = text.replaceAll('{orderId}', '0');
  return URL.canParse(filled) && new URL(filled).username === '' && !/[{}\s]/.test(filled);
};

/** `compileProxies` takes 1 as the address 0.0.0.1. */
const PROXY = /^(?:loopback|linklocal|uniquelocal|.*[.:].*[.:].*)$/;
const isProxy = (proxy: string) => {
  try {
    compileProxies(proxy);
    return PROXY.test(proxy);
  } catch {
    return false;
  }
};
const PROXIES = 'must be addresses or networks such as 10.0.0.0/8, comma separated';
const trustedProxies = commaSeparated.pipe(z.array(z.string().refine(isProxy, PROXIES)));

/** Whoever can change the keys on their way can make tokens of anybody. */
const isSafeUrl = (text: string) => {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || url.username + url.password !== '') return false;
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(host));
};
const jwksUrl = z
  .string()
  .refine((text) => text === '' || isSafeUrl(text), {
    error: 'must be a https:// URL without credentials; http:// only for a loopback address',
  })
  .default('');
const JWT_SETTINGS = ['JWT_JWKS_URL', 'JWT_ISSUER', 'JWT_AUDIENCE'] as const;

/**
 * Every setting: its environment variable, bounds, default and meaning. One that is marked as `secret` can also
 * be given as a file, and is never printed.
 */
const settings = {
  HOST: z.string().min(1).default('127.0.0.1').describe('Address to listen on.'),
  PORT: count(0, PORT_MAX).default(3000).describe('Port to listen on. 0 takes any free port.'),
  AUTH: onOff
    .default(true)
    .describe('on: requests need an API key or a token. off: anyone may do anything.'),
  AUTH_OFF_ON_NETWORK: onOff
    .default(false)
    .describe('on: AUTH=off is meant, although HOST can be reached from the network.'),
  JWT_JWKS_URL: jwksUrl.describe(
    'Public keys (JWKS) of the identity provider whose JWTs are accepted. If empty, none are.',
  ),
  JWT_ISSUER: optionalText.describe('The claim iss of its tokens, exactly.'),
  JWT_AUDIENCE: optionalText.describe('What the claim aud of its tokens must contain.'),
  JWT_CUSTOMER_CLAIM: z
    .string()
    .min(1)
    .default('sub')
    .describe('The claim that holds the customerId of a customer.'),
  JWT_AGE_MAX_S: count(60, 31_536_000)
    .default(86_400)
    .describe('Longest time since the claim iat of a token, even if it expires later.'),
  ADMIN_PORT: count(0, PORT_MAX)
    .optional()
    .describe(
      'Port of its own for metrics and documentation, which are public. The main port then ' +
        'has only the API and the health checks. If unset, the main port has everything.',
    ),
  ADMIN_HOST: z.string().min(1).default('127.0.0.1').describe('Address of ADMIN_PORT.'),
  CONNECTIONS_MAX: count(10, 100_000)
    .default(4000)
    .describe(
      'Maximum HTTP connections at once. Above it an idle one is closed, or the new one gets 503.',
    ),
  CONNECTIONS_PER_ADDRESS: count(1, 100_000)
    .default(1000)
    .describe(
      'The same for one address, or one IPv6 network (/64). Not for loopback and TRUSTED_PROXIES.',
    ),
  REQUEST_BYTES_MAX: count(1_048_576, 17_179_869_184)
    .default(33_554_432)
    .describe('Maximum bytes of request bodies in memory at once. Above it requests get 503.'),
  RATE_LIMIT_PER_ADDRESS: count(0, 1_000_000)
    .default(1000)
    .describe(
      'Requests a second from one address, or from one IPv6 network (/64). Above it requests get ' +
        '429. Loopback is not limited. 0: no limit.',
    ),
  RATE_LIMIT_PER_PRINCIPAL: count(0, 1_000_000)
    .default(1000)
    .describe(
      'Requests a second with one API key, or with the tokens of one subject. Above it requests ' +
        'get 429. Loopback is not limited. 0: no limit.',
    ),
  CORS_ORIGINS: origins.describe(
    'Origins whose pages may call the service from a browser, such as https://shop.example, comma separated.',
  ),
  TRUSTED_PROXIES: trustedProxies.describe(
    'Proxies whose X-Forwarded-For is believed: addresses, networks (10.0.0.0/8), loopback, ' +
      'linklocal or uniquelocal, comma separated. If empty, none.',
  ),
  ORDER_PAGE_URL: z
    .string()
    .refine((text) => text === '' || isPageOfOrder(text), {
      error: 'must be a https:// or http:// URL with {orderId} behind the host',
    })
    .default('')
    .describe(
      'Where a customer sees an order, such as https://shop.example/orders/{orderId}: the permalink_url of ' +
        'application/ucp+json (docs/ucp.md). If empty, that is urn:uuid:{orderId}.',
    ),
  LOG_LEVEL: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
    .default('info')
    .describe('Lowest level to log.'),
  DATABASE_URL: secret(databaseUrl, withoutPassword).describe(
    'Postgres database, as postgres://user:password@host:port/database. The service runs as its user.',
  ),
  MIGRATIONS_DATABASE_URL: secret(databaseUrl.optional(), withoutPassword).describe(
    'The same database as its owner, who migrates it. If empty, the user of DATABASE_URL does.',
  ),
  DATABASE_POOL_MAX: count(2, 100)
    .default(10)
    .describe(
      'Database connections for reads and background work. Commands use two more, stock two more.',
    ),
  KAFKA_BROKERS: commaSeparated
    .pipe(z.array(z.string().refine(isBroker, 'must be host:port, comma separated')))
    .describe('Kafka brokers as host:port, comma separated. If empty, events wait in the outbox.'),
  KAFKA_TLS: onOff
    .default(false)
    .describe('on: connect to the brokers with TLS, and check their certificates and host names.'),
  KAFKA_TLS_CA_FILE: optionalText.describe(
    'PEM file of the authorities that sign the certificates of the brokers. If empty, public ones.',
  ),
  KAFKA_TLS_CERT_FILE: optionalText.describe(
    'PEM file of our certificate, if the brokers want one. May hold the chain.',
  ),
  KAFKA_TLS_KEY_FILE: optionalText.describe('PEM file of the key of our certificate, unencrypted.'),
  KAFKA_SASL_MECHANISM: z
    .string()
    .toLowerCase()
    .pipe(z.enum(MECHANISMS, { error: 'must be plain, scram-sha-256 or scram-sha-512' }))
    .default('')
    .describe('How to log in to the brokers: plain, scram-sha-256 or scram-sha-512.'),
  KAFKA_SASL_USERNAME: optionalText.describe('User of the brokers.'),
  KAFKA_SASL_PASSWORD: secret(optionalText).describe('Password of that user.'),
  KAFKA_CLIENT: z
    .enum(kafkaClients, { error: `must be ${kafkaClients.join(' or ')}` })
    .default('kafkajs')
    .describe('The library that publishes: kafkajs or platformatic (@platformatic/kafka).'),
  KAFKA_TOPIC: z
    .string()
    .regex(/^[a-zA-Z0-9._-]{1,249}$/, 'must be a legal Kafka topic name')
    .default('order.events')
    .describe('Topic for the events. The service creates it if it is missing.'),
  KAFKA_TOPIC_PARTITIONS: count(1, 1000)
    .default(6)
    .describe('Partitions of the topic if the service creates it.'),
  KAFKA_TOPIC_REPLICATION: count(1, 10)
    .default(1)
    .describe('Replicas of each partition if the service creates the topic. Use 3 in production.'),
  RELAY: onOff
    .default(true)
    .describe('on: this process publishes the outbox. off: another relay, such as Debezium, does.'),
  OUTBOX_MAX_ROWS: count(1, 10_000_000)
    .default(1_000_000)
    .describe('Maximum unpublished events. Above it commands get 503 outbox_full.'),
  COMMAND_QUEUE_MAX: count(1, 20_000)
    .default(2000)
    .describe('Maximum commands that wait for a commit. Above it commands get 503.'),
  COMMAND_BATCH_MAX: count(1, 1000).default(64).describe('Maximum commands in one commit.'),
  PAYMENT_URL: providerUrl.describe(
    'Payment provider (docs/providers.md). If both URLs are empty, orders are fulfilled by hand.',
  ),
  SHIPPING_URL: providerUrl.describe('Shipping provider (docs/providers.md).'),
  PAYMENT_CONTRACT: contractVersion.describe(
    'Version of the contract that the payment provider speaks: 1 or 2.',
  ),
  SHIPPING_CONTRACT: contractVersion.describe(
    'Version of the contract that the shipping provider speaks: 1 or 2.',
  ),
  PAYMENT_API_KEY: secret(apiKey).describe('Bearer token for the payment provider.'),
  SHIPPING_API_KEY: secret(apiKey).describe('Bearer token for the shipping provider.'),
  PROVIDER_TIMEOUT_MS: count(50, 300_000)
    .default(30_000)
    .describe('Timeout of one call to a provider. A short one makes more outcomes unknown.'),
  PROVIDER_CALLS_MAX: count(1, 1000).default(32).describe('Maximum calls to one provider at once.'),
  SAGA_CONCURRENCY: count(1, 10_000).default(100).describe('Maximum sagas in progress at once.'),
  SAGA_POLL_MS: count(10, 60_000)
    .default(1000)
    .describe('How often to look for sagas that are due.'),
  SAGA_RETRY_MS: count(1, 60_000)
    .default(1000)
    .describe('Longest wait before the first retry of a step. Doubles with each retry.'),
  SAGA_RETRY_MS_MAX: count(1, 3_600_000)
    .default(300_000)
    .describe('Longest wait between two attempts of a step.'),
  SAGA_LEASE_MARGIN_MS: count(100, 60_000)
    .default(5000)
    .describe('How much longer than two provider calls the lease of a saga lasts.'),
  CAPTURE_DEADLINE_S: count(1, 64_800)
    .default(900)
    .describe(
      'When to give up capturing a payment. The service then cancels the capture and the order.',
    ),
  SHIP_DEADLINE_S: count(1, 64_800)
    .default(43_200)
    .describe(
      'When to give up shipping. The service then asks the provider to cancel the shipment.',
    ),
  UNDO_DEADLINE_S: count(1, 604_800)
    .default(86_400)
    .describe('When to give up undoing a step. The saga is then stuck.'),
  VERIFY_INTERVAL_S: count(0, 86_400)
    .default(60)
    .describe('How often to compare a few rows of orders_summary with the events. 0 is never.'),
  SHUTDOWN_DELAY_MS: count(0, 60_000)
    .default(0)
    .describe('How long to keep serving after SIGTERM, while /readyz already fails.'),
} as const;

const schema = z
  .object(settings)
  .refine(({ PAYMENT_URL, SHIPPING_URL }) => (PAYMENT_URL === '') === (SHIPPING_URL === ''), {
    error: 'must be set if PAYMENT_URL is set, and only then',
    path: ['SHIPPING_URL'],
  })
  .refine(
    ({ AUTH, HOST, AUTH_OFF_ON_NETWORK }) => AUTH || AUTH_OFF_ON_NETWORK || isLoopback(HOST),
    {
      error:
        'off would let anyone in who reaches HOST. Use a loopback address, or set AUTH_OFF_ON_NETWORK=on',
      path: ['AUTH'],
    },
  )
  .superRefine((given, context) => {
    const missing = JWT_SETTINGS.filter((name) => given[name] === '');
    if (missing.length === JWT_SETTINGS.length) return;
    for (const name of missing) context.addIssue({ code: 'custom', path: [name], message: '' });
  })
  .superRefine(checkKafka);

function checkKafka(given: KafkaSettings, context: z.RefinementCtx): void {
  for (const [name, message] of kafkaProblems(given)) {
    context.addIssue({ code: 'custom', path: [name], message });
  }
}

/** The environment variables that the service reads. */
export const settingNames: readonly string[] = variablesOf(settings);

const kafkaSchema = z
  .object(settings)
  .pick({
    KAFKA_BROKERS: true,
    KAFKA_TOPIC: true,
    KAFKA_TLS: true,
    KAFKA_TLS_CA_FILE: true,
    KAFKA_TLS_CERT_FILE: true,
    KAFKA_TLS_KEY_FILE: true,
    KAFKA_SASL_MECHANISM: true,
    KAFKA_SASL_USERNAME: true,
    KAFKA_SASL_PASSWORD: true,
  })
  .superRefine(checkKafka);

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
 * Reads settings from environment variables, and secrets from files too. An empty variable counts as unset.
 * @throws ConfigInvalid which names everything that is wrong
 */
export function readConfig(env: Environment): Config {
  return read(schema, env);
}

/** Reads only the settings of Kafka. @throws ConfigInvalid */
export function readKafkaConfig(env: Environment): z.infer<typeof kafkaSchema> {
  return read(kafkaSchema, env);
}

function read<Schema extends z.ZodObject>(from: Schema, env: Environment): z.infer<Schema> {
  const given = readGiven(from.shape, env);
  const unreadable = [...given.values()].flatMap(({ variable, problem }) =>
    problem === undefined ? [] : [`${variable}: ${problem}`],
  );
  const result = from.safeParse(
    Object.fromEntries([...given].map(([name, { text }]) => [name, text])),
  );
  if (result.success && unreadable.length === 0) return result.data;
  const wrong = (result.error?.issues ?? []).flatMap(({ path, message }) => {
    const name = String(path[0]);
    const { variable, problem } = given.get(name) ?? {};
    if (problem !== undefined) return [];
    return [variable === undefined ? `${name}: is not set` : `${variable}: ${message}`];
  });
  throw new ConfigInvalid([...unreadable, ...wrong]);
}

/** One line for each setting: name, value in force, where it comes from, meaning. Secrets are masked. */
export function describeConfig(env: Environment = {}): string {
  return listSettings(settings, env);
}
