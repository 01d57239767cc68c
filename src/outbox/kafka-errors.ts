import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { KafkaConnection } from './kafka-connection.ts';

const REASON_LENGTH_MAX = 300;
const DENIED = /AUTHORIZATION_FAILED|Not authorized to access/i;
const CLOSED = /Closed connection|Connection closed/i;
/** The broker says that it does not accept the certificate that it got, or that it got none. */
const CERTIFICATE_REFUSED =
  /ALERT_\w*CERTIFICATE|ALERT_UNKNOWN_CA|ALERT_ACCESS_DENIED|ALERT_HANDSHAKE_FAILURE/;

/** What errors mean, found by their codes and messages. The first match counts. */
const MEANINGS: readonly (readonly [RegExp, string])[] = [
  [
    /SELF_SIGNED_CERT|UNABLE_TO_GET_ISSUER_CERT|UNABLE_TO_VERIFY_LEAF/,
    "the broker's certificate is from an authority that is not trusted: check KAFKA_TLS_CA_FILE",
  ],
  [
    /ERR_TLS_CERT_ALTNAME_INVALID/,
    "the broker's certificate is for another host: check KAFKA_BROKERS and the advertised listeners",
  ],
  [/CERT_HAS_EXPIRED/, "the broker's certificate, or that of its authority, has expired"],
  [/CERT_NOT_YET_VALID/, "the broker's certificate is not valid yet: check the clocks"],
  [
    /before secure TLS connection|ERR_SSL_WRONG_VERSION_NUMBER|ERR_SSL_PACKET_LENGTH/,
    'the broker ended the TLS handshake: its port may be one for plaintext',
  ],
  [
    /the response is one of TLS|requires TLS/,
    'the broker expects TLS on this port: set KAFKA_TLS=on',
  ],
  [
    /UNSUPPORTED_SASL_MECHANISM|mechanism is not supported/,
    'the broker does not offer KAFKA_SASL_MECHANISM on this port',
  ],
  [/ILLEGAL_SASL_STATE/, 'the broker takes no login on this port: unset KAFKA_SASL_MECHANISM'],
  [
    /SASL_AUTHENTICATION_FAILED|authentication failed.*(invalid credentials|invalid username)/i,
    'the broker refuses the login: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD',
  ],
  [DENIED, 'the broker denies it: our user needs the rights Write and Create on the topic'],
];

/**
 * What failed and what to do about it, in one line without secrets. An error whose meaning is not
 * known is described by its messages. `fault` is why the connection failed, if that is known: a
 * request may only say that its connection was closed.
 */
export function explainKafkaError(
  error: unknown,
  connection: KafkaConnection,
  fault?: Error,
): string {
  const isClosed = error instanceof Error && CLOSED.test(error.message);
  const faults = faultsOf(isClosed && fault !== undefined ? fault : error);
  const text = faults.map(({ code, type, message }) => `${code} ${type} ${message}`).join('\n');
  const message = messageOf(faults);
  const code = faults.find((fault) => fault.code.includes('_'))?.code;
  if (connection.tls !== undefined && CERTIFICATE_REFUSED.test(text)) {
    return `${aboutOurCertificate(connection.tls.certFile)} (${code ?? message})`;
  }
  if (CLOSED.test(text) && connection.sasl === undefined) {
    return `${message}: if the broker wants a login, set KAFKA_SASL_MECHANISM`;
  }
  if (CLOSED.test(text) && connection.tls === undefined) {
    return `${message}: if the broker expects TLS, set KAFKA_TLS=on`;
  }
  const meaning = MEANINGS.find(([pattern]) => pattern.test(text))?.[1];
  return meaning === undefined ? message : `${meaning} (${message})`;
}

/** The name of the broker's error. Clients wrap it in other errors. */
export function protocolError(error: unknown): string | undefined {
  return faultsOf(error).find(({ type }) => type !== '')?.type;
}

type Fault = Readonly<{ message: string; code: string; type: string }>;

/** The error, and those that caused it. */
function faultsOf(error: unknown): readonly Fault[] {
  if (!(error instanceof Error)) return [{ message: String(error), code: '', type: '' }];
  const code = textOf(error, 'code');
  const type = textOf(error, 'type') || textOf(error, 'apiId');
  const list: readonly unknown[] =
    'errors' in error && Array.isArray(error.errors) ? error.errors : [];
  const causes = error.cause === undefined ? list : [...list, error.cause];
  return [{ message: error.message, code, type }, ...causes.flatMap(faultsOf)];
}

/** A property of an error, which is not in its type. */
function textOf(error: Error, name: string): string {
  const value: unknown = Object.entries(error).find(([key]) => key === name)?.[1];
  return typeof value === 'string' ? value : '';
}

/** The messages, each once. Those of OpenSSL have more than one line. */
function messageOf(faults: readonly Fault[]): string {
  const messages = faults.map(({ message }) =>
    message.replace('Connection error: ', '').trim().replace(/\.$/, ''),
  );
  const [text = ''] = [...new Set(messages)].filter(Boolean).join(': ').split('\n');
  return text.slice(0, REASON_LENGTH_MAX);
}

function aboutOurCertificate(certFile: string | undefined): string {
  if (certFile === undefined) return 'the broker wants a certificate: set KAFKA_TLS_CERT_FILE';
  const end = endOf(certFile);
  return end !== undefined && end.getTime() < Date.now()
    ? `the broker refuses KAFKA_TLS_CERT_FILE, which expired at ${end.toISOString()}`
    : 'the broker refuses KAFKA_TLS_CERT_FILE: it may not trust its authority';
}

function endOf(certFile: string): Date | undefined {
  try {
    return new X509Certificate(readFileSync(certFile)).validToDate;
  } catch {
    return undefined; // it was removed meanwhile
  }
}
