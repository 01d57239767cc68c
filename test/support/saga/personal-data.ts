import type { PersonalData } from '#src/orders/personal-data.ts';
import { deliverable } from '../order-api.ts';

const { payment, ...shown } = deliverable;

/** What a fulfilment reads of an order that is `deliverable`. */
export const PERSONAL_DATA: PersonalData = { ...shown, paymentMethod: payment.method };
