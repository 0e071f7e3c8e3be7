// What can be done to an image.
import type { Image } from '../api/types';
import { offered, type Action } from './action';

export function imageActions(image: Image): Action[] {
  const name = image.metadata.name;
  return offered([
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry image delete ${name}`,
      method: 'DELETE',
      path: `/v1/images/${name}`,
      route: '/v1/images/{name}',
      ask: `Image ${name} and its file are deleted. Refused while a VM stands on it.`,
      asked: `Deletion of image ${name} is under way`,
    },
  ]);
}
