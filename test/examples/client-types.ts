import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempDisposable, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const TYPES = fileURLToPath(new URL('../../examples/api.d.ts', import.meta.url));
/** The generator needs the interface of TypeScript 5, so it is not among the packages of this repository. */
const PACKAGES = ['openapi-typescript@7.13.0', 'typescript@5.9.3'];
const FLAGS = ['--root-types', '--root-types-no-schema-prefix'];
const FIRST_LINE = (hash: string) =>
  `// Made by \`npm run client\` from an OpenAPI document with the types ${hash}.\n`;

/** What becomes a comment in the types, or nothing. */
const LEFT_OUT: ReadonlySet<string> = new Set(
  (
    'info description summary title examples security securitySchemes pattern format minimum maximum ' +
    'exclusiveMinimum exclusiveMaximum minLength maxLength minItems maxItems not'
  ).split(' '),
);

/** Identifies the types that the document leads to. Each version of Node knows its own list of currencies. */
export function hashOf(document: string): string {
  const types: unknown = JSON.parse(document, (name, value) => {
    if (LEFT_OUT.has(name) && !isSchema(value)) return undefined;
    return name === 'currency' && isSchema(value) ? { ...value, enum: [] } : value;
  });
  return createHash('sha256').update(JSON.stringify(types)).digest('hex');
}

/** A property of a schema may have any name. */
function isSchema(value: unknown): boolean {
  return typeof value === 'object' && value !== null && ('type' in value || '$ref' in value);
}

/** Whether the types of the client were made from this document. */
export async function areCurrent(document: string): Promise<boolean> {
  return (await readFile(TYPES, 'utf8')).startsWith(FIRST_LINE(hashOf(document)));
}

/** Makes the types of the client from the document. */
export async function generateTypes(document: string): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'client-'));
  const [input, output] = [join(folder.path, 'openapi.json'), join(folder.path, 'api.d.ts')];
  await writeFile(input, document);
  const packages = PACKAGES.map((name) => `--package=${name}`);
  const generator = ['--', 'openapi-typescript', input, ...FLAGS, '-o', output];
  await promisify(execFile)('npm', ['exec', '--yes', ...packages, ...generator], {
    cwd: folder.path,
  });
  await writeFile(TYPES, FIRST_LINE(hashOf(document)) + (await readFile(output, 'utf8')));
}
