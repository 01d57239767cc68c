import { STATUS_CODES } from 'node:http';

import { z } from 'zod';

import { messageJsonSchema } from './asyncapi.ts';
import type { ChannelSpec, MessageSpec } from './asyncapi.ts';
import { problemExample } from './openapi.ts';
import type { ProblemKind } from './problem.ts';

/** The start page: what the service is, and links to everything else. */
export function homePage(): string {
  return page(
    '/',
    'Order service',
    html`<main>
      <h1>Order service</h1>
      <p class="lead">
        Takes orders over HTTP, keeps their history in Postgres and publishes every event to Kafka.
      </p>
      <h2>Documentation</h2>
      <dl class="links">
        ${link('/docs', 'API', 'Every request, with its fields, responses and errors.')}
        ${link('/docs/events', 'Events', 'The messages that the service publishes to Kafka.')}
        ${link('/docs/problems', 'Problems', 'Every error code, and what to do about it.')}
      </dl>
      <h2>For tools</h2>
      <dl class="links">
        ${link('/openapi.json', '/openapi.json', 'The API as OpenAPI 3.1, to generate clients.')}
        ${link('/asyncapi.json', '/asyncapi.json', 'The events as AsyncAPI 3.0.')}
      </dl>
      <h2>Operations</h2>
      <dl class="links">
        ${link('/livez', '/livez', 'Whether the process responds.')}
        ${link('/readyz', '/readyz', 'Whether this replica can take requests.')}
        ${link('/metrics', '/metrics', 'Metrics for Prometheus.')}
      </dl>
    </main>`,
  );
}

/** The page that shows the OpenAPI document. */
export function apiPage(): string {
  return page(
    '/docs',
    'API',
    html`<div id="api"></div>
      <noscript>
        This page needs JavaScript. <a href="/openapi.json">/openapi.json</a> describes the API,
        too.
      </noscript>
      <script src="/docs/swagger-ui-bundle.js"></script>
      <script src="/docs/api.js"></script>`,
    html`<link rel="stylesheet" href="/docs/swagger-ui.css" />`,
  );
}

/**
 * The script of the API page. The content security policy allows no script inside the page. `canSend`: the server of
 * the page also takes the requests, so they can be sent from it.
 */
export function apiScript(canSend: boolean): string {
  return `const dark = matchMedia('(prefers-color-scheme: dark)');
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', follow);
follow();
SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  validatorUrl: null,
  ${canSend ? '' : 'supportedSubmitMethods: [],'}
});
`;
}

/** The page that explains every problem code. The `type` of a problem links to it. */
export function problemsPage(kinds: readonly ProblemKind[]): string {
  const sorted = kinds.toSorted((a, b) => a.status - b.status || (a.code < b.code ? -1 : 1));
  const byStatus = [...Map.groupBy(sorted, ({ status }) => status)];
  return page(
    '/docs/problems',
    'Problems',
    html`<main class="indexed">
      ${index(byStatus.map(([status, of]) => [statusText(status), of.map(({ code }) => code)]))}
      <div>
        <h1>Problems</h1>
        <p class="lead">
          A request that fails gets a body of type <code>application/problem+json</code> (RFC 9457).
          Act on its <code>code</code>, which never changes. Its <code>type</code> links to this
          page.
        </p>
        <pre>${json(problemExample)}</pre>
        ${byStatus.map(
          ([status, of]) =>
            html`<h2>${statusText(status)}</h2>
              ${of.map(problemEntry)}`,
        )}
      </div>
    </main>`,
  );
}

function problemEntry({ code, title, advice }: ProblemKind): Html {
  return html`<section id="${code}">
    <h3><a href="#${code}">${code}</a></h3>
    <p><strong>${title}.</strong> ${prose(advice)}</p>
  </section>`;
}

function statusText(status: number): string {
  return `${status} ${STATUS_CODES[status]}`;
}

/** The page that describes the messages, from the same declaration as /asyncapi.json. */
export function eventsPage({ title, description, topic, key, messages }: ChannelSpec): string {
  const names = messages.map(({ name }) => name);
  return page(
    '/docs/events',
    'Events',
    html`<main class="indexed">
      ${index([['Messages', names]])}
      <div>
        <h1>${title}</h1>
        ${description.split('\n\n').map((text) => html`<p>${prose(text)}</p>`)}
        <table>
          <tbody>
            <tr>
              <th>Topic</th>
              <td><code>${topic}</code></td>
            </tr>
            <tr>
              <th>Key</th>
              <td>${key.description ?? ''}</td>
            </tr>
            <tr>
              <th>Format</th>
              <td>CloudEvents 1.0 in binary mode; the value is JSON in UTF-8</td>
            </tr>
            <tr>
              <th>Schemas</th>
              <td><a href="/asyncapi.json">/asyncapi.json</a></td>
            </tr>
          </tbody>
        </table>
        ${messages.map(messageEntry)}
      </div>
    </main>`,
  );
}

function messageEntry({ name, title, summary, headers, payload, example }: MessageSpec): Html {
  return html`<section id="${name}">
    <h2><a href="#${name}">${name}</a></h2>
    <p><strong>${title}.</strong> ${prose(summary)}</p>
    <h3>Payload</h3>
    ${fieldTable(payload)}
    <pre>${json(example.payload)}</pre>
    <details>
      <summary>Headers</summary>
      ${fieldTable(headers)}
      <pre>
${Object.entries(example.headers)
          .map(([header, value]) => `${header}: ${value}`)
          .join('\n')}</pre>
    </details>
  </section>`;
}

function fieldTable(schema: z.ZodType): Html {
  return html`<table>
    <thead>
      <tr>
        <th>Field</th>
        <th>Type</th>
        <th>Meaning</th>
      </tr>
    </thead>
    <tbody>
      ${fieldsOf(objectSchema.parse(messageJsonSchema(schema))).map(
        ({ name, type, meaning }) =>
          html`<tr>
            <td><code>${name}</code></td>
            <td>${type}</td>
            <td>${meaning}</td>
          </tr>`,
      )}
    </tbody>
  </table>`;
}

/** The JSON Schema of an object, as far as the pages show it. */
const objectSchema = z.object({
  get properties() {
    return z.record(z.string(), fieldSchema).default({});
  },
  required: z.array(z.string()).default([]),
});
const fieldSchema = z.object({
  type: z.string().optional(),
  format: z.string().optional(),
  const: z.unknown().optional(),
  minimum: z.number().optional(),
  description: z.string().default(''),
  items: objectSchema.optional(),
});

/** The fields of an object. The fields of the objects in a list follow the list, as `items[].sku`. */
function fieldsOf(
  { properties, required }: z.infer<typeof objectSchema>,
  prefix = '',
): Readonly<{ name: string; type: string; meaning: string }>[] {
  return Object.entries(properties).flatMap(([key, field]) => {
    const name = `${prefix}${key}`;
    const type = `${typeText(field)}${required.includes(key) ? '' : ', optional'}`;
    const own = { name, type, meaning: field.description };
    return field.items === undefined ? own : [own].concat(fieldsOf(field.items, `${name}[].`));
  });
}

function typeText({ type, format, minimum, ...field }: z.infer<typeof fieldSchema>): string {
  if (field.const !== undefined) return JSON.stringify(field.const);
  const limit = minimum === undefined ? '' : `, at least ${minimum}`;
  return `${format ?? type ?? 'any'}${limit}`;
}

const SITE = {
  '/': 'Order service',
  '/docs': 'API',
  '/docs/events': 'Events',
  '/docs/problems': 'Problems',
};

/** The frame of every page. */
function page(path: keyof typeof SITE, title: string, body: Html, head = html``): string {
  const entries = Object.entries(SITE).map(([to, name]) =>
    to === path
      ? html`<a href="${to}" aria-current="page">${name}</a>`
      : html`<a href="${to}">${name}</a>`,
  );
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title}</title>
        <link rel="icon" href="data:," />
        <link rel="stylesheet" href="/docs/style.css" />
        ${head}
      </head>
      <body>
        <header><nav aria-label="Pages">${entries}</nav></header>
        ${body}
      </body>
    </html> `.markup;
}

function link(href: string, name: string, meaning: string): Html {
  return html`<dt><a href="${href}">${name}</a></dt>
    <dd>${meaning}</dd>`;
}

/** Links to the sections of a page, in groups. */
function index(groups: readonly (readonly [title: string, ids: readonly string[]])[]): Html {
  return html`<nav class="index" aria-label="On this page">
    ${groups.map(
      ([title, ids]) =>
        html`<p>${title}</p>
          <ul>
            ${ids.map((id) => html`<li><a href="#${id}">${id}</a></li>`)}
          </ul>`,
    )}
  </nav>`;
}

/** Text in which backticks enclose code. */
function prose(text: string): readonly Html[] {
  return text
    .split('`')
    .map((part, at) => (at % 2 === 0 ? html`${part}` : html`<code>${part}</code>`));
}

function json(value: unknown): string {
  return JSON.stringify(value, undefined, 2);
}

/** A part of a page. Only `html` makes one, so that all text in a page is escaped. */
type Html = Readonly<{ markup: string }>;

function html(
  parts: TemplateStringsArray,
  ...contents: readonly (string | Html | readonly Html[])[]
): Html {
  return { markup: String.raw({ raw: parts }, ...contents.map(toMarkup)) };
}

function toMarkup(content: string | Html | readonly Html[]): string {
  if (typeof content === 'string') return escape(content);
  return 'markup' in content ? content.markup : content.map(({ markup }) => markup).join('\n');
}

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
