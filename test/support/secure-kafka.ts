import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { connect } from 'node:tls';
import kafkajs from 'kafkajs';
import type { Admin } from 'kafkajs';
import { inject } from 'vitest';
import type { KafkaConnection, KafkaLogin } from '#src/outbox/kafka-connection.ts';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { createAuthority } from './certificates.ts';
import type { Authority, Certificate } from './certificates.ts';
import { eventually } from './poll.ts';
import { keySettings, PASSWORDS, secureListeners } from './secure-listeners.ts';
import type { ListenerName } from './secure-listeners.ts';
import { createTestFolder } from './test-folder.ts';
import { hostOfServers, startTestKafkaWith } from './test-servers.ts';
import type { TestServer } from './test-servers.ts';

/** A Kafka with TLS and logins, for one test file. */
export type SecureKafka = AsyncDisposable &
  Readonly<{
    server: TestServer;
    /** The host name or address in `brokers`, which its certificates are for. */
    host: string;
    /** The addresses of a listener. */
    brokers: (listener: ListenerName | 'plaintext') => string[];
    /** Signs the certificates of the broker and of `mutual`'s clients. */
    authority: Authority;
    /** Its certificates are for the same host. Nobody trusts it. */
    foreign: Authority;
    /** Where the files are. */
    folder: string;
    /** For a connection with the right certificate authority and the password of `orders`. */
    connection: (mechanism?: KafkaLogin['mechanism']) => KafkaConnection;
    /** Connected in plaintext, as a user who may do everything. */
    admin: Admin;
    /** Lets the listener `login` show another certificate from now on. */
    renew: (certificate: Certificate) => Promise<void>;
  }>;

export async function startSecureKafka(): Promise<SecureKafka> {
  const folder = await createTestFolder('certificates-');
  const host = await hostOfServers(inject('infra'));
  const names = isIP(host) ? `IP:${host}` : `DNS:${host}`;
  const authority = await createAuthority(folder.path, 'ca', names);
  const foreign = await createAuthority(folder.path, 'foreign', names);
  const { extras, ports } = await secureListeners(authority);
  const server = await startTestKafkaWith(inject('infra'), extras);
  const brokers = (listener: ListenerName | 'plaintext') => [
    listener === 'plaintext' ? server.address : `${host}:${ports[listener]}`,
  ];
  const { kafka, destroy } = createKafkaClient({ brokers: [server.address] }, { debug: () => {} });
  const admin = kafka.admin();
  await admin.connect();
  return {
    server,
    host,
    brokers,
    authority,
    foreign,
    folder: folder.path,
    connection: (mechanism = 'scram-sha-512') => ({
      brokers: brokers('login'),
      tls: { caFile: authority.caFile },
      sasl: { mechanism, username: 'orders', password: PASSWORDS.orders },
    }),
    admin,
    renew: async (certificate) => {
      const entries = Object.entries(await keySettings('login', certificate));
      const configEntries = entries.map(([name, value]) => ({ name, value }));
      const type = kafkajs.ConfigResourceTypes.BROKER;
      const resources = [{ type, name: '1', configEntries }];
      await admin.alterConfigs({ validateOnly: false, resources });
      const { fingerprint256 } = new X509Certificate(await readFile(certificate.certFile));
      await eventually(async () => (await shownBy(brokers('login'))) === fingerprint256);
    },
    [Symbol.asyncDispose]: async () => {
      destroy();
      await server.remove();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** The fingerprint of the certificate that a broker shows to a new connection. */
async function shownBy([broker = '']: readonly string[]): Promise<string> {
  const [host = '', port] = broker.split(':');
  const socket = connect({ host, port: Number(port), rejectUnauthorized: false });
  await once(socket, 'secureConnect');
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return fingerprint256;
}
