/** No handler asks for the session here. */
import { saving } from '../../../sessions'

export const GET = saving(() => Response.json({}))
