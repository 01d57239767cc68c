import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isLoopback } from '#src/network/loopback.ts';

type Mechanism = 'plain' | 'scram-sha-256' | 'scram-sha-512';

/** How the brokers see this service. */
export const CLIENT_ID = 'order-service';
export const CONNECTION_TIMEOUT_MS = 3_000;
export const KEEP_ALIVE_DELAY_MS = 10_000;
/** How often a request is repeated, and how long before the first and at most before the last time. */
export const RETRY = { retries: 3, initialRetryTime: 100, maxRetryTime: 1_000 };

/** How to log in to the brokers. */
export type KafkaLogin = {
  [Of in Mechanism]: Readonly<{ mechanism: Of; username: string; password: string }>;
}[Mechanism];

/** The PEM files of TLS. Without `caFile` the certificates of public authorities are trusted. */
export type KafkaTlsFiles = Readonly<{ caFile?: string; certFile?: string; keyFile?: string }>;

/** How to reach the brokers. Without `tls` in plaintext, without `sasl` with no login. */
export type KafkaConnection = Readonly<{
  brokers: readonly string[];
  tls?: KafkaTlsFiles;
  sasl?: KafkaLogin;
}>;

/** The settings of the connection, as `src/config.ts` reads them. Text that is unset is empty. */
export type KafkaSettings = Readonly<{
  KAFKA_BROKERS: readonly string[];
  KAFKA_TLS: boolean;
  KAFKA_TLS_CA_FILE: string;
  KAFKA_TLS_CERT_FILE: string;
  KAFKA_TLS_KEY_FILE: string;
  KAFKA_SASL_MECHANISM: Mechanism | '';
  KAFKA_SASL_USERNAME: string;
  KAFKA_SASL_PASSWORD: string;
}>;

/** Builds the connection from settings without problems. */
export function kafkaConnection(settings: KafkaSettings): KafkaConnection {
  const { KAFKA_TLS_CA_FILE: caFile, KAFKA_TLS_CERT_FILE: certFile } = settings;
  const { KAFKA_TLS_KEY_FILE: keyFile, KAFKA_SASL_MECHANISM: mechanism } = settings;
  const { KAFKA_SASL_USERNAME: username, KAFKA_SASL_PASSWORD: password } = settings;
  return {
    brokers: settings.KAFKA_BROKERS,
    ...(settings.KAFKA_TLS && {
      tls: {
        ...(caFile && { caFile }),
        ...(certFile && { certFile }),
        ...(keyFile && { keyFile }),
      },
    }),
    ...(mechanism && { sasl: { mechanism, username, password } }),
  };
}

/**
 * Reads the files of TLS, as options of `tls.connect`. They are small, and may change while we run.
 * @throws an Error that names the setting
 */
export function readTlsFiles({ caFile, certFile, keyFile }: KafkaTlsFiles) {
  return {
    ...(caFile && { ca: contentOf('KAFKA_TLS_CA_FILE', caFile) }),
    ...(certFile && { cert: contentOf('KAFKA_TLS_CERT_FILE', certFile) }),
    ...(keyFile && { key: contentOf('KAFKA_TLS_KEY_FILE', keyFile) }),
  };
}

function contentOf(setting: string, file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
    throw new Error(`${setting} cannot be read any more${code}`, { cause: error });
  }
}

/** A setting of the connection that cannot be right together with the others, and why. */
type Problem = readonly [setting: keyof KafkaSettings, problem: string];

/** Why no connection is possible with these settings, or none that is safe. Reads the files of TLS. */
export function kafkaProblems(settings: KafkaSettings): readonly Problem[] {
  return [...tlsProblems(settings), ...loginProblems(settings)];
}

function tlsProblems(settings: KafkaSettings): readonly Problem[] {
  const files = ['KAFKA_TLS_CA_FILE', 'KAFKA_TLS_CERT_FILE', 'KAFKA_TLS_KEY_FILE'] as const;
  const given = files.filter((name) => settings[name] !== '');
  if (!settings.KAFKA_TLS) return given.map((name) => [name, 'needs KAFKA_TLS=on']);
  const { KAFKA_TLS_CERT_FILE: certFile, KAFKA_TLS_KEY_FILE: keyFile } = settings;
  if (certFile && !keyFile) return [['KAFKA_TLS_CERT_FILE', 'needs KAFKA_TLS_KEY_FILE']];
  if (keyFile && !certFile) return [['KAFKA_TLS_KEY_FILE', 'needs KAFKA_TLS_CERT_FILE']];
  const unusable = given.flatMap((name): Problem[] => {
    const read = name === 'KAFKA_TLS_KEY_FILE' ? privateKeyIn : certificatesIn;
    const problem = problemOf(() => read(settings[name]));
    return problem === undefined ? [] : [[name, problem]];
  });
  if (unusable.length > 0 || certFile === '') return unusable;
  const isPair = certificatesIn(certFile)[0]?.checkPrivateKey(privateKeyIn(keyFile));
  return isPair ? [] : [['KAFKA_TLS_KEY_FILE', 'is not the key of KAFKA_TLS_CERT_FILE']];
}

function loginProblems(settings: KafkaSettings): readonly Problem[] {
  const parts = ['KAFKA_SASL_MECHANISM', 'KAFKA_SASL_USERNAME', 'KAFKA_SASL_PASSWORD'] as const;
  const missing = parts.filter((name) => settings[name] === '');
  const given = parts.filter((name) => settings[name] !== '');
  if (given.length > 0 && missing.length > 0) {
    return given.map((name) => [name, `needs ${missing.join(' and ')}`]);
  }
  const isReadable = settings.KAFKA_SASL_MECHANISM === 'plain';
  if (!isReadable || !isLoginExposed(kafkaConnection(settings))) return [];
  const problem = 'would send the password readable over the network: set KAFKA_TLS=on';
  return [['KAFKA_SASL_MECHANISM', problem]];
}

/** Whether the login would go over a network without TLS. Only SCRAM, which hides the password, may. */
export function isLoginExposed({ brokers, tls, sasl }: KafkaConnection): boolean {
  if (sasl === undefined || tls !== undefined) return false;
  return !brokers.every((broker) => isLoopback(hostOf(broker)));
}

/**
 * Must be called before each connection: brokers on this machine may advertise other addresses.
 * @throws an Error if the password would go over a network readable
 */
export function requireHiddenPassword(
  { tls, sasl }: Pick<KafkaConnection, 'tls' | 'sasl'>,
  host: string,
): void {
  if (sasl?.mechanism !== 'plain' || tls !== undefined || isLoopback(host)) return;
  throw new Error(`the password would be readable on the way to ${host}: set KAFKA_TLS=on`);
}

/** An IPv6 address is in brackets. */
function hostOf(broker: string): string {
  return broker.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

function certificatesIn(file: string): X509Certificate[] {
  const blocks = readFileSync(file, 'utf8').match(CERTIFICATE) ?? [];
  if (blocks.length === 0) throw new Error('holds no certificate in PEM format');
  return blocks.map((block) => new X509Certificate(block));
}

function privateKeyIn(file: string): KeyObject {
  const pem = readFileSync(file, 'utf8');
  if (/^-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED/m.test(pem)) {
    throw new Error('holds an encrypted key: decrypt it with openssl pkey');
  }
  if (!pem.includes('PRIVATE KEY-----')) throw new Error('holds no private key in PEM format');
  return createPrivateKey(pem);
}

function problemOf(read: () => unknown): string | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    if (!(error instanceof Error)) return String(error);
    const { message } = error;
    // Not the path: it may be the key itself, by mistake.
    if ('syscall' in error && 'code' in error) {
      return `names a file that cannot be read (${String(error.code)})`;
    }
    return message.startsWith('holds ') ? message : `is not valid PEM: ${message}`;
  }
}
