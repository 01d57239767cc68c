import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/** The PEM files of a certificate and its key. */
export type Certificate = Readonly<{ certFile: string; keyFile: string }>;

/** What a certificate says. */
export type CertificateOptions = Readonly<{
  /** Host names and addresses, as in `DNS:localhost,IP:127.0.0.1`. Those of its authority if unset. */
  hosts?: string;
  /** How long it is valid from now. It has expired if this is negative. */
  days?: number;
}>;

/** A certificate authority of a test. */
export type Authority = Readonly<{
  /** Its own certificate. */
  caFile: string;
  sign(name: string, options?: CertificateOptions): Promise<Certificate>;
}>;

/**
 * Makes a certificate authority with openssl. All its files are in the folder and begin with its name. Its
 * certificates are for this machine, or for the hosts that are given.
 */
export async function createAuthority(
  folder: string,
  name: string,
  itsHosts = 'IP:127.0.0.1,DNS:localhost',
): Promise<Authority> {
  const base = join(folder, name);
  const caFile = `${base}.pem`;
  const self = ['-x509', '-days', '30', '-keyout', `${base}.key`, '-out', caFile];
  await run('openssl', ['req', ...NEW_KEY, ...self, '-subj', `/CN=${name}`]);
  let serial = 0;
  return {
    caFile,
    sign: async (subject, { hosts = itsHosts, days = 30 } = {}) => {
      serial += 1;
      const path = `${base}-${serial}`;
      const [certFile, keyFile] = [`${path}.pem`, `${path}.key`];
      await writeFile(`${path}.ext`, `subjectAltName=${hosts}\n`);
      const request = [
        '-new',
        '-keyout',
        keyFile,
        '-out',
        `${path}.csr`,
        '-subj',
        `/CN=${subject}`,
      ];
      await run('openssl', ['req', ...NEW_KEY, ...request]);
      const signing = ['-CA', caFile, '-CAkey', `${base}.key`, '-set_serial', String(serial)];
      const content = ['-days', String(days), '-extfile', `${path}.ext`];
      const files = ['-in', `${path}.csr`, '-out', certFile];
      await run('openssl', ['x509', '-req', ...signing, ...content, ...files]);
      return { certFile, keyFile };
    },
  };
}
