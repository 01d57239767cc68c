import { z } from 'zod';
import { safeText } from '#src/http/fields.ts';

/*
 * Personal data of an order, and the token that its payment is captured with. They are in the table
 * `order_personal_data` only: never in an event, a message, a stored response, a log line or a problem.
 */

const CONTROL = String.raw`\u0000-\u001f\u007f-\u009f\u2028\u2029`;
const ONE_LINE = new RegExp(`^[^${CONTROL}]*$`);
const EMAIL = /^[^\s@]+@[^\s@]+$/u;
const PHONE = /^\+?[0-9 ()./-]*$/;

/** The officially assigned codes of ISO 3166-1, and XK, which the post uses for Kosovo. */
const COUNTRIES = new Set(
  (
    'AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW ' +
    'BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI ' +
    'FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN ' +
    'IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME ' +
    'MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF ' +
    'PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV ' +
    'SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK ' +
    'YE YT ZA ZM ZW'
  ).split(' '),
);

/** Text that fits on a label: no line breaks, no control characters. */
function line(max: number) {
  return safeText(1, max)
    .refine((text) => ONE_LINE.test(text), {
      error: 'must not contain a line break or another control character',
    })
    .meta({ minLength: 1, maxLength: max, pattern: `^[^${CONTROL}]*$` });
}

const countryCode = z
  .string()
  .refine((code) => COUNTRIES.has(code), {
    error: 'must be the ISO 3166-1 code of a country: two capital letters, such as DE',
  })
  .meta({ enum: [...COUNTRIES] });

/** Where an order is sent to. */
export const shippingAddress = z
  .strictObject({
    name: line(200).describe('Who receives the parcel.'),
    line1: line(200).describe('Street and number.'),
    line2: line(200).optional(),
    postalCode: line(20),
    city: line(100),
    region: line(100).optional().describe('State or province, where the post needs it.'),
    country: countryCode,
  })
  .meta({
    examples: [
      {
        name: 'Ada Example',
        line1: '1 Sample Street',
        postalCode: '10115',
        city: 'Berlin',
        country: 'DE',
      },
    ],
  });

/** How to reach the customer: by at least one of both. */
export const contact = z
  .strictObject({
    email: safeText(3, 254)
      .refine((text) => EMAIL.test(text), { error: 'must be an e-mail address' })
      .meta({ minLength: 3, maxLength: 254, pattern: EMAIL.source })
      .optional(),
    phone: safeText(3, 32)
      .refine((text) => PHONE.test(text), {
        error: 'must be a phone number: digits, and + ( ) . / - and spaces between them',
      })
      .meta({ minLength: 3, maxLength: 32, pattern: PHONE.source })
      .optional(),
  })
  .refine(({ email, phone }) => email !== undefined || phone !== undefined, {
    error: 'must have email, phone or both',
  })
  .meta({ minProperties: 1, examples: [{ email: 'ada@example.com', phone: '+49 30 1234567' }] });

/** The opaque token of the payment provider. It is a secret, and never shown. */
export const paymentMethod = safeText(1, 255);

/** As they are stored and shown. What was accepted stays readable, whatever later releases require or add. */
export const storedAddress = z.object({
  name: z.string(),
  line1: z.string(),
  line2: z.string().optional(),
  postalCode: z.string(),
  city: z.string(),
  region: z.string().optional(),
  country: z.string(),
});
export const storedContact = z.object({
  email: z.string().optional(),
  phone: z.string().optional(),
});

export type ShippingAddress = Readonly<z.infer<typeof shippingAddress>>;
export type Contact = Readonly<z.infer<typeof contact>>;

/** What is kept apart for one order. Nothing is set for an order that gave nothing, or that was erased. */
export type PersonalData = Readonly<{
  shippingAddress?: ShippingAddress;
  contact?: Contact;
  paymentMethod?: string;
}>;
