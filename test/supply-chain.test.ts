import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

const LICENCES = new Set(['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause']);
const EXACT_VERSION = /^\d+\.\d+\.\d+(?:-[\w.]+)?$/;
const SHA512 = /^sha512-[A-Za-z0-9+/]{86}==$/;

type Locked = Readonly<{
  version: string;
  integrity?: string;
  resolved?: string;
  license?: string;
  hasInstallScript?: boolean;
  dev?: boolean;
  optional?: boolean;
}>;

type Manifest = Readonly<
  Record<'dependencies' | 'devDependencies', Readonly<Record<string, string>>>
>;
type Lockfile = Readonly<{ packages: Readonly<Record<string, Locked>> }>;
type Sbom = Readonly<{ components: readonly Readonly<{ purl: string }>[] }>;

const { packages }: Lockfile = JSON.parse(readFileSync('package-lock.json', 'utf8'));
const { dependencies, devDependencies }: Manifest = JSON.parse(
  readFileSync('package.json', 'utf8'),
);
const direct = Object.entries({ ...dependencies, ...devDependencies });
const locked = Object.entries(packages).filter(([path]) => path !== '');
const production = locked.filter(([, { dev, optional }]) => !dev && !optional);

describe('the lockfile', () => {
  test('holds a SHA-512 hash for each package, and takes every package from the registry', () => {
    const loose = locked.filter(
      ([, { integrity = '', resolved }]) => !SHA512.test(integrity) || resolved !== undefined,
    );
    expect(loose.map(([path]) => path)).toEqual([]);
  });

  test('gives the image packages under licences that allow any use', () => {
    const others = production.filter(([, { license = '' }]) => !LICENCES.has(license));
    expect(others.map(([path, { license }]) => `${path}: ${license}`)).toEqual([]);
  });

  test('has one package in the image with an install script, which npm does not run', () => {
    const withScript = production.filter(([, { hasInstallScript }]) => hasInstallScript);
    expect(withScript.map(([path]) => path)).toEqual(['node_modules/@scarf/scarf']);
    expect(readFileSync('.npmrc', 'utf8')).toMatch(/^ignore-scripts=true$/m);
  });
});

describe('the direct dependencies', () => {
  test('have exact versions', () => {
    expect(direct.filter(([, version]) => !EXACT_VERSION.test(version))).toEqual([]);
  });

  test('have a reason in the decision record', () => {
    const record = readFileSync('docs/decisions/0001-dependencies.md', 'utf8');
    const named = new Set(record.split(/[^@\w/.-]+/));
    expect(direct.map(([name]) => name).filter((name) => !named.has(name))).toEqual([]);
  });
});

// With `--omit=dev`, npm leaves out packages of the image that a development package needs as well.
test('the bill of materials that npm writes lists every package of the image', () => {
  const sbom: Sbom = JSON.parse(
    execFileSync('npm', ['sbom', '--package-lock-only', '--sbom-format=cyclonedx'], {
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    }),
  );
  const purls = new Set(sbom.components.map(({ purl }) => decodeURIComponent(purl)));
  const missing = production.filter(
    ([path, { version }]) => !purls.has(`pkg:npm/${nameOf(path)}@${version}`),
  );
  expect(missing.map(([path]) => path)).toEqual([]);
});

/** `node_modules/a/node_modules/@b/c` is the package `@b/c`. */
function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);
}
